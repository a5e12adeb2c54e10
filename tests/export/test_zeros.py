"""Zeros of anybody's checkpoint."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune

import pruning
from pruning.commands.check import check_text
from pruning.errors import UserError
from pruning.export.zeros import count_zeros
from tests.export.made import checkpoint

CONV = torch.tensor([[[[0.0, -0.0, 1.0]]], [[[2.0, 0.0, 3.0]]]])
STATES = {"body.0.weight": CONV, "body.0.bias": torch.tensor([0.0, 1.0]), "head.weight": torch.ones(4, 2)}
STATES |= {"bn.weight": torch.ones(2), "bn.running_mean": torch.zeros(2), "bn.num_batches_tracked": torch.tensor(0)}
FILES: dict[str, Any] = {
    "plain.pt": STATES,
    "original.pth.tar": {"state_dict": STATES, "epoch": 3},
    "other.pth": {"model": STATES, "args": {"lr": 0.1}, "optimizer": {"state": {}}},
    "x.safetensors": None,
}


def write(path: Path, whole: Any) -> Path:
    torch.save(whole, path) if whole is not None else safetensors.torch.save_file(STATES, path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_state_dicts_of_any_network(name: str, tmp_path: Path) -> None:
    layers = count_zeros(write(tmp_path / name, FILES[name]))
    found = {layer.name: (layer.shape, layer.weights, layer.zeros, layer.prunable) for layer in layers}
    assert found == {
        "body.0.weight": ((2, 1, 1, 3), 6, 3, True),
        "body.0.bias": ((2,), 2, 1, False),
        "head.weight": ((4, 2), 8, 0, True),
        "bn.weight": ((2,), 2, 0, False),
    }
    lines = check_text(layers, tmp_path / name).splitlines()
    assert [line.split() for line in lines[2:6]] == [
        ["body.0.weight", "2x1x1x3", "6", "3", "0.5000"],
        ["head.weight", "4x2", "8", "0", "0.0000"],
        ["all", "conv", "and", "linear", "weights", "14", "3", "0.2143"],
        ["all", "parameters", "18", "4", "0.2222"],
    ]
    assert lines[-1].endswith("no mask in this file")


def test_pairs_of_torch_are_one_parameter(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 4))
    prune.l1_unstructured(network[0], "weight", amount=0.25)
    torch.save(network.state_dict(), tmp_path / "x.pt")
    layers = {layer.name: layer for layer in count_zeros(tmp_path / "x.pt")}
    assert sorted(layers) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert (layers["0.weight"].zeros, layers["0.weight"].pruned, layers["0.weight"].alive) == (54, 54, 0)


@pytest.mark.parametrize("kind", ["ours", "sparse", "onnx"])
def test_files_with_a_mask_say_whether_the_zeros_are_those_of_it(kind: str, tmp_path: Path) -> None:
    made = checkpoint()
    {"ours": made.save, "sparse": lambda p: pruning.save_sparse(made, p), "onnx": lambda p: pruning.save_onnx(made, p)}[
        kind
    ](tmp_path / "x")
    layers = count_zeros(tmp_path / "x")
    pruned = sum(int((~keep).sum()) for keep in made.mask.values())
    assert f"the mask agrees: all {pruned:,} weights that it prunes are zero" in check_text(layers, tmp_path / "x")
    if kind == "ours":
        tensors = safetensors.torch.load_file(tmp_path / "x")
        name = next(iter(made.mask))
        tensors[name][~made.mask[name]] = 1.0
        safetensors.torch.save_file(tensors, tmp_path / "y")
        assert "the mask does not agree: " in check_text(count_zeros(tmp_path / "y"), tmp_path / "y")


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("evil-was-here"),))


BAD: dict[str, tuple[Any, str]] = {
    "empty": (b"", "cannot be read as a checkpoint"),
    "text": (b"hello\n" * 100, "cannot be read as a checkpoint"),
    "evil": (pickle.dumps(Evil()), "cannot be read as a checkpoint"),
    "evil of torch": (Evil(), "cannot be read as a checkpoint"),
    "a list": ([1, 2], "holds a list, and no tensors by name"),
    "no tensors": ({"epoch": 3}, "holds a dict with 'epoch', and no tensors by name"),
    "whole numbers": ({"a": torch.ones(3, dtype=torch.int64)}, "holds no parameters"),
    "a module": (nn.Linear(2, 2), "cannot be read as a checkpoint"),
    "sparse": ({"a": torch.ones(2, 2).to_sparse()}, "no plain tensor"),
    "a bomb": ({"a": torch.ones(1).expand(1 << 20, 1 << 20)}, "no plain tensor"),
    "header": ((1 << 62).to_bytes(8, "little") + b"{}", "cannot be read as a checkpoint"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, text = BAD[name]
    path = tmp_path / "x"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError) as caught:
        count_zeros(path)
    assert str(caught.value).startswith(str(path))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
