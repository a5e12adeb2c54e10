import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
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
from pruning.checkpoints import Checkpoint, load_as
from pruning.errors import UserError
from tests.commands import ROOT
from tests.helpers import slow

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
        written.weights["conv1.weight"].view(-1)[:3] = torch.tensor([torch.nan, -0.0, torch.inf])
        written.save(path)
        by_run = checkpoints.load(str(tmp_path))
        for found in (checkpoints.load(path), by_run, load_as(path, "resnet20", 10)):
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
        assert checkpoints.digest(tmp_path / name) == hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match=rf"^path={tmp_path / 'none'} cannot be read: No such file"):
        checkpoints.digest(tmp_path / "none")


def original(model: nn.Module, path: Path, prefix: str = "", best: Any = 93.42, **options: Any) -> None:
    """Write what the code behind arXiv 2006.11487 writes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    states = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    content = {"epoch": 160, "state_dict": states, "best_acc": best, "optimizer": optimizer.state_dict()}
    torch.save(content, path, **options)


QUICK = {"resnet20": (10, "module."), "vgg16": (100, "module."), "wrn_16_8": (10, ""), "preresnet164": (100, "")}


@pytest.mark.parametrize(
    "arch", [name if name in QUICK else pytest.param(name, marks=slow) for name in sorted(archs.ARCHS)]
)
def test_originals_of_every_architecture_load(tmp_path: Path, arch: str) -> None:
    num_classes, prefix = QUICK.get(arch, (100, "module."))
    model = network(arch, num_classes)
    mask = masks.prune(model, 0.3, "random")
    model.load_state_dict(masks.masked(checkpoints.snapshot(model), mask))
    original(model, path := tmp_path / "model_best.pth.tar", prefix, np.float64(93.42))
    found = load_as(path, arch, num_classes)
    path.unlink()
    assert (found.arch, found.num_classes) == (arch, num_classes)
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
    for path in (tmp_path / "none", tmp_path):
        assert refusal(path) == f"path={path}: no such file, and no run has that id"
    with pytest.raises(UserError, match=rf"^{tmp_path / 'none'} cannot be read as a checkpoint: No such file"):
        checkpoints.load(tmp_path / "none")


def test_a_foreign_safetensors_or_another_network_of_ours_is_refused(tmp_path: Path) -> None:
    path, text = tmp_path / "m", "was not written by this program: its metadata do not name the architecture"
    foreign: tuple[dict[str, str] | None, ...] = (
        None,
        {},
        {"format": "pt"},
        {"pruning": "{}"},
        {"pruning": "nonsense"},
    )
    for metadata in foreign:
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
