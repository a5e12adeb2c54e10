import hashlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pruning import archs, checkpoints, masks
from pruning.checkpoints import Checkpoint
from pruning.errors import UserError
from pruning.export import load_as
from tests.commands import ROOT
from tests.helpers import quick

NORMALISATION = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def network(arch: str = "resnet20", num_classes: int = 10) -> nn.Module:
    model = archs.build(arch, num_classes)
    archs.initialise(model, torch.Generator().manual_seed(0))
    for module in model.modules():  # so that the buffers matter
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
    return model


def checkpoint(arch: str = "resnet20", num_classes: int = 10, sparsity: float = 0.8) -> Checkpoint:
    model = network(arch, num_classes)
    mask = masks.prune(model, sparsity) if sparsity else {}
    return Checkpoint(masks.masked(checkpoints.snapshot(model), mask), mask, arch, num_classes, NORMALISATION)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_as(path, "resnet20", 10)
    text = str(caught.value)
    assert text.removeprefix("path=").startswith(str(path))
    assert ("\n" in text, text.startswith("path=")) == (False, caught.value.parameter == "path")
    return text


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Equal names, shapes, types and bits."""
    one, other = ({k: (t.dtype, t.shape, t.numpy().tobytes()) for k, t in tensors.items()} for tensors in (a, b))
    return one == other


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model.eval()(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return found


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for written in (checkpoint(sparsity=0), checkpoint()):
        written.weights["conv1.weight"].view(-1)[:2] = torch.tensor([-0.0, 1e-40])
        digest = written.save(path)
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        by_run = checkpoints.load(str(tmp_path))
        for found in (checkpoints.load(path, digest), by_run, load_as(path, "resnet20", 10, digest)):
            assert [*found.weights] == [*network().state_dict()]  # in the network's order
            assert same(found.weights, written.weights)
            assert same(found.mask, written.mask)
            assert replace(found, weights={}, mask={}) == replace(written, weights={}, mask={})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    with safetensors.safe_open(path, framework="pt") as file:  # without this program
        about = json.loads(file.metadata()["pruning"])
    assert about == {"arch": "resnet20", "num_classes": 10, "normalisation": NORMALISATION}
    masked = {f"mask/{name}": keep for name, keep in written.mask.items()}
    assert same(safetensors.torch.load_file(path), written.weights | masked)


def test_a_snapshot_is_apart_from_its_network_and_makes_another() -> None:
    model = network().to(memory_format=torch.channels_last)
    expected, taken = logits(model), checkpoints.snapshot(model)
    before = {name: tensor.clone() for name, tensor in taken.items()}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    assert same(taken, before)
    assert all(t.is_contiguous() and not t.requires_grad and t.device.type == "cpu" for t in taken.values())
    found = Checkpoint(taken, {}, "resnet20", 10, {})
    again = found.network()
    assert not again.training
    assert same(checkpoints.snapshot(again), taken)
    assert torch.allclose(logits(again), expected, atol=1e-5)
    again.get_parameter("conv1.weight").data.zero_()
    assert same(found.weights, taken)  # the network has its own weights


WRITE = """
from pathlib import Path
import torch
from pruning.checkpoints import Checkpoint
weights = {f"layer{i}.weight": torch.full((2, 3), float(i)) for i in range(40)}
mask = {name: weights[name] > 3 for name in {*weights}}
Checkpoint(weights, mask, "resnet20", 10, {"mean": [0.5], "std": [0.25]}).save(Path("PATH"))
"""


def test_equal_checkpoints_are_equal_files_in_every_process_and_order_and_layout(tmp_path: Path) -> None:
    one = checkpoint()
    weights = {name: one.weights[name] for name in reversed(one.weights)}
    weights["conv1.weight"] = weights["conv1.weight"].to(memory_format=torch.channels_last)
    one.save(tmp_path / "one")
    replace(one, weights=weights, mask=dict(reversed(one.mask.items()))).save(tmp_path / "other")
    exec(WRITE.replace("PATH", str(tmp_path / "here")), {})
    subprocess.run([sys.executable, "-c", WRITE.replace("PATH", str(tmp_path / "there"))], check=True, cwd=ROOT)
    for name, same_name in (("one", "other"), ("here", "there")):
        content = (tmp_path / name).read_bytes()
        assert content == (tmp_path / same_name).read_bytes()


def original(model: nn.Module, path: Path, prefix: str = "", best: Any = 93.42, **options: Any) -> None:
    """Write what the code behind arXiv 2006.11487 writes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    states = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    content = {"epoch": 160, "state_dict": states, "best_acc": best, "optimizer": optimizer.state_dict()}
    torch.save(content, path, **options)


QUICK = {"resnet20": (10, "module."), "vgg16": (100, "module."), "wrn_16_8": (10, ""), "preresnet164": (100, "")}


@pytest.mark.parametrize("arch", quick(*QUICK, of=sorted(archs.ARCHS)))
def test_originals_of_every_architecture_load(tmp_path: Path, arch: str) -> None:
    num_classes, prefix = QUICK.get(arch, (100, "module."))
    model = network(arch, num_classes)
    mask = masks.prune(model, 0.3, "random")
    model.load_state_dict(masks.masked(checkpoints.snapshot(model), mask))
    original(model, path := tmp_path / "model_best.pth.tar", prefix, np.float64(93.42))
    found = load_as(path, arch, num_classes)
    path.unlink()
    assert (found.arch, found.num_classes) == (arch, num_classes)
    # (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010) in the original's cifar.py, for both datasets
    assert found.normalisation == {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
    assert same(found.mask, mask)
    assert same(found.weights, checkpoints.snapshot(model))
    assert torch.equal(logits(found.network()), logits(model))


def test_originals_of_every_age_and_weights_alone(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "m.pth.tar"
    nn.init.zeros_(model.get_parameter("fc.weight"))  # zeros outside convolutions are no mask
    for best in (93.42, np.float64(93.42), np.float32(93.42), torch.tensor(93.42)):
        for zipped in (True, False):
            original(model, path, "module.", best, _use_new_zipfile_serialization=zipped)
            if not zipped:  # as before torch 1.6, and numpy 2, whose scalars have another module
                content = path.read_bytes()
                assert content.count(b"numpy._core.multiarray") == isinstance(best, np.generic)
                path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
            found = load_as(path, "resnet20", 10)
            assert same(found.weights, checkpoints.snapshot(model))
            assert found.mask == {}
    older = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}  # torch < 0.4.1
    for alone in (model.state_dict(), {"state_dict": older}):
        torch.save(alone, path)
        assert same(load_as(path, "resnet20", 10).weights, model.state_dict())


class Evil(str):
    def __reduce__(self) -> Any:
        return os.system, (str(self),)


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "m"
    content = {"epoch": Evil(f"touch {trap}"), "state_dict": network().state_dict()}
    for kind in ("zip", "legacy", "pickle"):
        if kind == "pickle":
            path.write_bytes(pickle.dumps(content, protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
        assert refusal(path) == (
            f"{path} cannot be read as a checkpoint: Trying to load unsupported GLOBAL posix.system "
            "whose module posix is blocked; is it truncated or foreign?"
        )
        assert not trap.exists()
    torch.save(network(), path)
    assert "read as a checkpoint: Unsupported global: GLOBAL pruning.archs.resnet.ResNet was" in refusal(path)


def test_truncated_files_and_nonsense_are_refused(tmp_path: Path) -> None:
    path, chance = tmp_path / "m", np.random.default_rng(0)
    checkpoint().save(path)
    wholes = [path.read_bytes()]
    for zipped in (True, False):
        original(network(), path, _use_new_zipfile_serialization=zipped)
        wholes.append(path.read_bytes())
    for whole in wholes:
        for end in [0, 1, 2, 7, 8, 9, 10, 100, 1000, len(whole) - 1, *chance.integers(len(whole), size=6).tolist()]:
            path.write_bytes(whole[:end])
            assert re.search("cannot be read as a checkpoint: .*truncated", refusal(path))
    texts = [b"\n", b"hello, I am a text file\n" * 100, b'{"a": 1}', b"01234567{}", b"#!/bin/sh\n", b"\x89PNG\r\n"]
    noise = [chance.integers(256, size=size, dtype=np.uint8).tobytes() for size in (1, 5, 50, 500, 5000) * 5]
    pickled = [bytes([0x80, protocol]) + part[:60] for protocol in (2, 4) for part in noise]
    letters = [bytes([letter]) + b"1\n." for letter in range(256)]
    for content in texts + noise + pickled + letters:
        path.write_bytes(content)
        assert "checkpoint" in refusal(path)


def test_a_pickle_of_something_else_or_no_file_is_refused(tmp_path: Path) -> None:
    text = f"{tmp_path / 'm'} is not a checkpoint of weights: expected a dict with an entry state_dict"
    for content in ([1, 2], 3, {"state_dict": 5}, {"epoch": 1}, {"state_dict": {"a": 1}}, {1: 2}):
        torch.save(content, tmp_path / "m")
        assert refusal(tmp_path / "m") == text
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    nothing = "no such file, and no run has that id"
    odd = {"": "this directory holds no model.safetensors", "none": nothing, "loop": nothing}
    odd |= {"fifo": "is no regular file", "x" * 300: "File name too long"}
    for name, reason in odd.items():
        assert refusal(tmp_path / name) == f"path={tmp_path / name}: {reason}"
    assert refusal(Path("/dev/zero")) == "path=/dev/zero: is no regular file"
    with pytest.raises(UserError, match=rf"^{tmp_path / 'none'} cannot be read as a checkpoint: No such file"):
        checkpoints.load(tmp_path / "none")


def test_a_safetensors_of_another_program_is_a_state_dict(tmp_path: Path) -> None:
    path, weights = tmp_path / "m", checkpoints.snapshot(network())
    foreign: tuple[dict[str, str] | None, ...] = (None, {}, {"format": "pt"})
    for metadata in foreign:
        safetensors.torch.save_file(weights, path, metadata)
        found = load_as(path, "resnet20", 10).weights
        assert all(torch.equal(found[name], weight) for name, weight in weights.items())


def test_metadata_that_say_nothing_or_another_network_of_ours_are_refused(tmp_path: Path) -> None:
    path, text = tmp_path / "m", "was not written by this program: its metadata do not name the architecture"
    for metadata in ({"pruning": "{}"}, {"pruning": "nonsense"}):
        safetensors.torch.save_file(checkpoints.snapshot(network()), path, metadata)
        assert text in refusal(path)
    for arch, num_classes in [("resnet32", 10), ("resnet20", 100)]:
        checkpoint(arch, num_classes).save(path)
        text = f"holds {arch} for {num_classes} classes, not resnet20 for 10; give arch={arch} and its dataset"
        assert refusal(path) == f"path={path} {text}"


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path, whole = tmp_path / "m", checkpoint()
    many = {"x": (1,), "fc.weight": None, "bn1.bias": (3,), "bn1.weight": None, "y": (1,)}
    changes: list[tuple[Mapping[str, tuple[int, ...] | None], str]] = [
        ({"extra": (2,), "fc.bias": None}, "fc.bias is missing; extra is unknown"),
        ({"conv1.weight": (16, 27)}, "conv1.weight is [16, 27], not [16, 3, 3, 3]"),
        (many, "bn1.bias is [3], not [16]; bn1.weight is missing; fc.weight is missing and 2 more"),
    ]
    for change, text in changes:
        weights = {name: tensor for name, tensor in whole.weights.items() if name not in change}
        weights |= {name: torch.ones(shape) for name, shape in change.items() if shape}
        replace(whole, weights=weights).save(path)
        expected = f"path={path} does not fit arch=resnet20 with 10 classes: {text}"
        assert refusal(path) == expected
        torch.save({"state_dict": weights}, path)  # an original
        assert refusal(path) == expected


def test_a_file_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    checkpoint().save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    other = checkpoint(sparsity=0.5)
    for rewrite in (other.save, lambda path: original(network(), path), lambda path: path.write_bytes(b"")):
        rewrite(path)
        for read in (checkpoints.load, lambda path, digest: load_as(path, "resnet20", 10, digest)):
            with pytest.raises(checkpoints.ChangedError, match=f"^{path} has changed: it is not the file that it was"):
                read(path, digest)


FLOAT8 = torch.float8_e4m3fn
NAME = "layer2.1.conv2.weight"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ours", [True, False])
def test_other_floats_are_cast(tmp_path: Path, dtype: torch.dtype, ours: bool) -> None:
    path, whole = tmp_path / "m", checkpoint(sparsity=0)
    weights = {name: t.to(dtype) if t.is_floating_point() else t.to(torch.int32) for name, t in whole.weights.items()}
    replace(whole, weights=weights).save(path) if ours else torch.save({"state_dict": weights}, path)
    expected = {name: t.to(like.dtype) for (name, t), like in zip(weights.items(), whole.weights.values(), strict=True)}
    assert same(load_as(path, "resnet20", 10).weights, expected)


def odd_tensors() -> dict[str, tuple[Tensor, str]]:
    """Return tensors of the right shape that are no weights, and what is said of them."""
    like = network().state_dict()[NAME]
    zeros = torch.zeros_like(like)
    kinds = {"bool": torch.bool, "int64": torch.int64, "uint8": torch.uint8, "complex64": torch.complex64}
    found = {
        name: (zeros.to(kind), f"has torch.{name} values in {NAME}, not torch.float32") for name, kind in kinds.items()
    }
    for name, value in {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.items():
        broken = like.clone()
        broken.view(-1)[7:9] = value
        found[name] = broken, f"has 2 values in {NAME} that are not finite"
    found["beyond float32"] = like.double() * 1e300, f"has {like.numel()} values in {NAME} that are not finite"
    return found


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("kind", odd_tensors())
def test_tensors_that_are_no_weights_are_refused(tmp_path: Path, kind: str, ours: bool) -> None:
    path, whole = tmp_path / "m", checkpoint(sparsity=0)
    tensor, text = odd_tensors()[kind]
    weights = whole.weights | {NAME: tensor}
    replace(whole, weights=weights).save(path) if ours else torch.save({"state_dict": weights}, path)
    assert refusal(path) == f"path={path} {text}"
    if ours:
        with pytest.raises(UserError, match=f"^{path} {text}$"):
            checkpoints.load(path)


def test_tensors_that_a_pickle_can_hold_and_a_network_cannot_are_refused(tmp_path: Path) -> None:
    path, like = tmp_path / "m", network().state_dict()
    huge = torch.zeros(1).expand(10**6, 10**6)  # one number in the file
    with warnings.catch_warnings(action="ignore"):  # torch is about to give them up
        quantised = torch.quantize_per_tensor(like[NAME], 1, 0, torch.qint8)
    plain = [like[NAME].to_sparse(), like[NAME].to("meta"), quantised]
    odd = {"no plain tensor": plain, "is [1000000, 1000000], not": [huge]}
    for text, tensors in odd.items():
        for tensor in tensors:
            torch.save({"state_dict": like | {NAME: tensor}}, path)
            assert text in refusal(path)
    torch.save({"state_dict": like | {"bn1.running_var": -like["bn1.running_var"]}}, path)
    assert refusal(path) == f"path={path} has negative variances in bn1.running_var"
    twice = {f"module.{name}": tensor for name, tensor in like.items()} | {"fc.bias": like["fc.bias"]}
    torch.save({"state_dict": twice}, path)
    assert refusal(path) == f"{path} holds 'fc.bias' twice, with and without `module.`"


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "m", checkpoint()
    keep = whole.mask[NAME]
    count = int(torch.count_nonzero(whole.weights["conv1.weight"]))
    odd: list[tuple[dict[str, Tensor], str]] = [
        (
            {NAME: keep.float()},
            f"has a mask for {NAME} that is torch.float32 [32, 32, 3, 3], not torch.bool [32, 32, 3, 3]",
        ),
        ({NAME: keep.to(torch.uint8)}, f"has a mask for {NAME} that is torch.uint8"),
        ({NAME: keep[:1]}, f"has a mask for {NAME} that is torch.bool [1, 32, 3, 3], not"),
        ({NAME: keep.flatten()}, f"has a mask for {NAME} that is torch.bool [9216], not"),
        ({"bn1.weight": torch.ones(16, dtype=torch.bool)}, "has a mask for 'bn1.weight', which is no prunable weight"),
        ({"bn1.running_mean": torch.ones(16, dtype=torch.bool)}, "has a mask for 'bn1.running_mean', which is no"),
        ({"fc.bias": torch.ones(10, dtype=torch.bool)}, "has a mask for 'fc.bias', which is no prunable weight"),
        ({"nowhere": keep.clone()}, "has a mask for 'nowhere', which is no prunable weight"),
        ({"": keep.clone()}, "has a mask for '', which is no prunable weight"),
        (
            {"conv1.weight": torch.zeros(16, 3, 3, 3, dtype=torch.bool)},
            f"has {count} weights in conv1.weight that its mask",
        ),
    ]
    for change, text in odd:
        replace(whole, mask=whole.mask | change).save(path)
        assert refusal(path).startswith(f"path={path} {text}")
    linear = {"fc.weight": torch.ones(10, 64, dtype=torch.bool)}  # layers=conv+linear
    replace(whole, mask=whole.mask | linear).save(path)
    assert same(load_as(path, "resnet20", 10).mask, whole.mask | linear)


def with_header(content: bytes, change: Any) -> bytes:
    """Return a safetensors file whose header was changed as text."""
    size = int.from_bytes(content[:8], "little")
    header = change(content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def test_hostile_headers_and_metadata_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m"
    checkpoint().save(path)
    whole = path.read_bytes()
    about = json.loads(safetensors.safe_open(path, framework="pt").metadata()["pruning"])
    twice = with_header(whole, lambda h: h.replace(b'"layer1.1.conv1.weight"', b'"layer1.1.conv2.weight"'))
    contents = [twice, with_header(whole, lambda h: h.replace(b'"F32"', b'"F99"'))]
    contents += [
        with_header(whole, lambda h: h.replace(b'"F32"', b'"I32"')),
        with_header(whole, lambda _: b"{" * 10**5),
    ]
    for content in contents:
        path.write_bytes(content)
        refusal(path)
    deep: Any = json.loads("[" * 900 + "]" * 900)
    names: list[Any] = [None, 5, [], {}, "nothing", "a\nb", "x" * 10**5]
    numbers: list[Any] = [None, -1, 0, 1, 1.5, "10", 10**30, 10**9, True, deep]
    changes = [{"arch": wrong} for wrong in names] + [{"num_classes": wrong} for wrong in numbers]
    constants: list[Any] = [None, 5, "x", [], {"mean": [0.1] * 3}, {"mean": [0.1] * 2, "std": [0.1] * 2}, deep]
    deviations: list[Any] = [[0.0] * 3, [-1.0] * 3, [math.nan] * 3, "abc", [None] * 3]
    constants += [{"mean": [0.1] * 3, "std": wrong} for wrong in deviations]
    changes += [{"normalisation": wrong} for wrong in constants if wrong not in (None, [])]  # which is none
    for change in changes:
        tensors = checkpoints.snapshot(network())
        safetensors.torch.save_file(tensors, path, {"pruning": json.dumps(about | change)})
        refusal(path)
    for text in ("[" * 10**5, "nonsense", "[]", "5", "null", '{"arch": "resnet20"}'):
        safetensors.torch.save_file(tensors, path, {"pruning": text})
        refusal(path)
