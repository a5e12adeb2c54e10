import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
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

ROOT = Path(__file__).parents[1]
NORMALISATION = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def network(arch: str = "resnet20", num_classes: int = 10, seed: int = 0) -> nn.Module:
    model = archs.build(arch, num_classes)
    archs.initialise(model, torch.Generator().manual_seed(seed))
    for module in model.modules():  # so that the buffers matter
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5), nn.init.normal_(module.running_mean, 0, 0.1)
    return model


def checkpoint(arch: str = "resnet20", num_classes: int = 10, sparsity: float = 0.8) -> Checkpoint:
    model = network(arch, num_classes)
    parameters = dict(model.named_parameters())
    scores = {name: parameters[name].detach().abs() for name in masks.prunable(model)}
    mask = masks.keep_top(scores, sparsity) if sparsity else {}
    return Checkpoint(masks.applied(mask, checkpoints.snapshot(model)), mask, arch, num_classes, NORMALISATION)


def about(arch: str = "resnet20", num_classes: int = 10) -> Checkpoint:
    return Checkpoint({}, {}, arch, num_classes, {})


@lru_cache(maxsize=1)
def template(arch: str, num_classes: int) -> nn.Module:
    return archs.build(arch, num_classes)


def read(path: Path, arch: str = "resnet20", num_classes: int = 10) -> Checkpoint:
    return checkpoints.read(path, template(arch, num_classes), about(arch, num_classes))


def refusal(path: Path, arch: str = "resnet20", num_classes: int = 10) -> str:
    with pytest.raises(UserError) as caught:
        read(path, arch, num_classes)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal names, shapes, types and bits."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].numpy().tobytes() == b[k].numpy().tobytes()
        for k in a
    )


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("sparsity", [0, 0.8])
def test_round_trip_to_the_bit(tmp_path, sparsity):
    written = checkpoint(sparsity=sparsity)
    written.weights["conv1.weight"].view(-1)[:3] = torch.tensor([torch.nan, -0.0, torch.inf])
    written.save(tmp_path / "model.safetensors")
    for found in (checkpoints.load(tmp_path / "model.safetensors"), read(tmp_path / "model.safetensors")):
        assert same(found.weights, written.weights) and same(found.mask, written.mask)
        assert replace(found, weights={}, mask={}) == replace(written, weights={}, mask={})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_file_says_what_it_is(tmp_path):
    """It can be read by safetensors alone, without this program."""
    written = checkpoint()
    written.save(tmp_path / "m")
    with safetensors.safe_open(tmp_path / "m", framework="pt") as file:
        assert json.loads(file.metadata()["pruning"]) == {
            "arch": "resnet20",
            "num_classes": 10,
            "normalisation": NORMALISATION,
        }
    tensors = safetensors.torch.load_file(tmp_path / "m")
    assert tensors.keys() == set(written.weights) | {f"mask/{name}" for name in written.mask}
    assert all(tensors[f"mask/{name}"].dtype == torch.bool for name in written.mask)


def test_a_network_loads_what_another_left(tmp_path):
    model = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    Checkpoint(checkpoints.snapshot(model), {}, "resnet20", 10, {}).save(tmp_path / "m")
    again = read(tmp_path / "m").load_into(archs.build("resnet20", 10))
    assert same(checkpoints.snapshot(again), checkpoints.snapshot(model))
    assert torch.equal(logits(again), logits(again)) and torch.allclose(logits(again), logits(model), atol=1e-5)


def test_a_snapshot_is_apart_from_the_model():
    model = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    taken = checkpoints.snapshot(model)
    before = {name: tensor.clone() for name, tensor in taken.items()}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    assert same(taken, before)
    assert all(t.is_contiguous() and not t.requires_grad and t.device.type == "cpu" for t in taken.values())


WRITE = """
import sys
from pathlib import Path
import torch
from pruning.checkpoints import Checkpoint
names = [f"layer{i}.weight" for i in range(40)]
weights = {name: torch.full((2, 3), float(i)) for i, name in enumerate(names)}
mask = {name: weights[name] > 3 for name in sorted({*names})}
Checkpoint(weights, mask, "resnet20", 10, {"mean": [0.5], "std": [0.25]}).save(Path(sys.argv[1]))
"""


def test_equal_checkpoints_are_equal_files_in_every_process(tmp_path):
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run(
            [sys.executable, "-c", WRITE, tmp_path / seed], check=True, cwd=ROOT, env=environment, timeout=120
        )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_the_order_and_layout_of_tensors_change_no_byte(tmp_path):
    one = checkpoint()
    weights = {name: one.weights[name] for name in reversed(one.weights)}
    weights["conv1.weight"] = weights["conv1.weight"].to(memory_format=torch.channels_last)
    other = replace(one, weights=weights, mask=dict(reversed(one.mask.items())))
    one.save(tmp_path / "one"), other.save(tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert checkpoints.digest(tmp_path / "one") == hashlib.sha256((tmp_path / "one").read_bytes()).hexdigest()


def test_a_digest_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=rf"^resume={tmp_path / 'none'} cannot be read: No such file"):
        checkpoints.digest(tmp_path / "none")


def original(model: nn.Module, path: Path, prefix: str = "", best: Any = None, **options: Any) -> None:
    """Write what the code behind arXiv 2006.11487 writes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    content = {
        "epoch": 160,
        "state_dict": {prefix + name: tensor for name, tensor in model.state_dict().items()},
        "best_acc": np.float64(93.42) if best is None else best,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path, **options)


@torch.no_grad()
def some_zeros(model: nn.Module) -> masks.Mask:
    mask = {}
    for name in masks.prunable(model):
        weight = model.get_parameter(name)
        mask[name] = torch.rand(weight.shape, generator=torch.Generator().manual_seed(len(mask))) < 0.7
        weight.copy_(torch.where(mask[name], weight, 0))
    return mask


@pytest.mark.parametrize("num_classes, prefix", [(10, "module."), (100, "")])
@pytest.mark.parametrize("arch", archs.BUILDERS)
def test_originals_of_every_architecture_load(tmp_path, arch, num_classes, prefix):
    model = network(arch, num_classes)
    mask = some_zeros(model)
    original(model, path := tmp_path / "model_best.pth.tar", prefix)
    found = read(path, arch, num_classes)
    path.unlink()
    assert (found.arch, found.num_classes) == (arch, num_classes)
    assert same(found.mask, mask) and same(found.weights, checkpoints.snapshot(model))
    assert torch.equal(logits(found.load_into(archs.build(arch, num_classes))), logits(model))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "best", [93.42, np.float64(93.42), np.float32(93.42), torch.tensor(93.42)], ids=["float", "f64", "f32", "tensor"]
)
def test_originals_in_every_dress(tmp_path, legacy, prefix, best):
    model = network()
    original(model, tmp_path / "m.pth.tar", prefix, best, _use_new_zipfile_serialization=not legacy)
    found = read(tmp_path / "m.pth.tar")
    assert same(found.weights, checkpoints.snapshot(model)) and found.mask == {}


def test_originals_of_the_time(tmp_path):
    """Written before torch 1.6 and numpy 2, whose scalars have another module."""
    model = network()
    original(model, path := tmp_path / "m.pth.tar", "module.", _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"numpy._core.multiarray") == 1
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert same(read(path).weights, checkpoints.snapshot(model))


def test_originals_without_counters_of_batches(tmp_path):
    """As torch wrote them before 0.4.1."""
    model = network()
    states = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": states}, tmp_path / "m.pth.tar")
    assert same(read(tmp_path / "m.pth.tar").weights, checkpoints.snapshot(model))


def test_a_bare_state_dict_loads(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "m.pth")
    assert same(read(tmp_path / "m.pth").weights, checkpoints.snapshot(model))


def test_zeros_outside_convolutions_are_no_mask(tmp_path):
    model = network()
    nn.init.zeros_(model.get_parameter("fc.weight"))
    original(model, tmp_path / "m")
    assert read(tmp_path / "m").mask == {}


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("dress", ["zip", "legacy", "pickle"])
def test_a_file_cannot_run_code(tmp_path, dress):
    trap = tmp_path / "trap"
    content = {"epoch": Evil(f"touch {trap}"), "state_dict": network().state_dict()}
    if dress == "pickle":
        (tmp_path / "m").write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, tmp_path / "m", _use_new_zipfile_serialization=dress == "zip")
    assert refusal(tmp_path / "m") == (
        f"{tmp_path / 'm'} cannot be read as a checkpoint: Trying to load unsupported GLOBAL posix.system "
        "whose module posix is blocked; is it truncated or foreign?"
    )
    assert not trap.exists()


def test_a_pickled_network_is_refused(tmp_path):
    torch.save(network(), tmp_path / "m")
    text = "cannot be read as a checkpoint: Unsupported global: GLOBAL pruning.archs.resnet.ResNet was not an allowed "
    assert text in refusal(tmp_path / "m")


def test_truncated_files_are_refused(tmp_path):
    path, chance = tmp_path / "m", np.random.default_rng(0)
    checkpoint().save(path)
    wholes = [path.read_bytes()]
    for zipped in (True, False):
        original(network(), path, _use_new_zipfile_serialization=zipped)
        wholes.append(path.read_bytes())
    for whole in wholes:
        ends = [0, 1, 2, 4, 7, 8, 9, 10, 20, 100, 1000, len(whole) // 2, len(whole) - 1]
        for end in [*ends, *chance.integers(len(whole), size=10).tolist()]:
            path.write_bytes(whole[:end])
            text = refusal(path)
            assert "cannot be read as a checkpoint" in text and "truncated" in text


def test_nonsense_is_refused(tmp_path):
    path, chance = tmp_path / "m", np.random.default_rng(0)
    texts = [
        b"",
        b"\n",
        b"hello, I am a text file\n" * 100,
        b'{"a": 1}',
        b"01234567{}",
        b"#!/bin/sh\necho\n",
        b"\x89PNG\r\n",
    ]
    noise = [chance.integers(256, size=size, dtype=np.uint8).tobytes() for size in (1, 5, 50, 500, 5000) * 5]
    pickled = [bytes([0x80, protocol]) + part[:60] for protocol in (2, 4) for part in noise]
    letters = [bytes([letter]) + b"1\n." for letter in range(256)]
    for content in texts + noise + pickled + letters:
        path.write_bytes(content)
        assert "checkpoint" in refusal(path)


@pytest.mark.parametrize("content", [[1, 2], 3, {"state_dict": 5}, {"epoch": 1}, {"state_dict": {"a": 1}}, {1: 2}])
def test_a_pickle_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "m")
    text = f"{tmp_path / 'm'} is not a checkpoint of weights: expected a dict with an entry state_dict"
    assert refusal(tmp_path / "m") == text


def test_no_file_is_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        assert refusal(path) == f"resume={path}: no such file, and no run has that id"


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"pruning": "{}"}, {"pruning": "nonsense"}])
def test_a_foreign_safetensors_is_refused(tmp_path, metadata):
    safetensors.torch.save_file(checkpoints.snapshot(network()), tmp_path / "m", metadata)
    assert "was not written by this program: its metadata do not say the architecture" in refusal(tmp_path / "m")


@pytest.mark.parametrize("arch, num_classes, given", [("resnet32", 10, "resnet32"), ("resnet20", 100, "resnet20")])
def test_another_network_of_ours_is_refused(tmp_path, arch, num_classes, given):
    checkpoint(arch, num_classes).save(tmp_path / "m")
    assert refusal(tmp_path / "m") == (
        f"resume={tmp_path / 'm'} holds {arch} for {num_classes} classes, not resnet20 for 10; "
        f"give arch={given} and its dataset"
    )


def differing(tmp_path: Path, change: dict[str, Tensor | None], ours: bool) -> str:
    """Return the differences that are named when the weights of a resnet20 are changed (None: removed)."""
    weights = {k: v for k, v in (checkpoint().weights | change).items() if v is not None}
    if ours:
        replace(checkpoint(), weights=weights).save(tmp_path / "m")
    else:
        torch.save({"state_dict": weights}, tmp_path / "m")
    start, _, rest = refusal(tmp_path / "m").partition(" classes: ")
    assert start == f"resume={tmp_path / 'm'} does not fit arch=resnet20 with 10"
    return rest


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "original"])
@pytest.mark.parametrize(
    "change, text",
    [
        ({"fc.bias": None}, "fc.bias is missing"),
        ({"fc.bias": None, "bn1.weight": None}, "bn1.weight is missing; fc.bias is missing"),
        ({"extra": torch.zeros(2)}, "extra is unknown"),
        ({"fc.weight": torch.ones(100, 64)}, "fc.weight is [100, 64], not [10, 64]"),
        ({"conv1.weight": torch.ones(16, 27)}, "conv1.weight is [16, 27], not [16, 3, 3, 3]"),
        (
            {
                "x": torch.zeros(1),
                "fc.weight": None,
                "bn1.bias": torch.zeros(3),
                "bn1.weight": None,
                "y": torch.ones(1),
            },
            "bn1.bias is [3], not [16]; bn1.weight is missing; fc.weight is missing and 2 more",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, text, ours):
    assert differing(tmp_path, change, ours) == text


@pytest.mark.parametrize(
    "arch, num_classes, text",
    [
        ("resnet20", 100, "fc.weight is [100, 64], not [10, 64]; fc.bias is [100], not [10]"),
        ("resnet32", 10, "layer1.3.conv1.weight is unknown; "),
        ("vgg16", 10, "conv1.weight is missing; "),
    ],
)
def test_originals_of_another_network_are_refused(tmp_path, arch, num_classes, text):
    original(network(arch, num_classes), tmp_path / "m")
    assert f"does not fit arch=resnet20 with 10 classes: {text}" in refusal(tmp_path / "m")
    (tmp_path / "m").unlink()


def test_compare_says_it_in_words():
    found, wanted = {"a": (1,), "b": (2, 3), "z": ()}, {"a": (1,), "b": (3, 2), "c": ()}
    assert checkpoints.compare(found, wanted) == ["b is [2, 3], not [3, 2]", "c is missing", "z is unknown"]
    assert checkpoints.compare(found, found) == []
