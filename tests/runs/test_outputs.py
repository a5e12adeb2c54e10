"""What a network says to the test images: written whole, read back, and never mistaken for something else."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from pruning.files import DamagedError
from pruning.runs import Outputs
from pruning.runs.outputs import NAME


def some() -> Outputs:
    logits = torch.tensor([[0.1, 2.0, -1.0], [1e9, 3.0, float("-1e30")], [1.00001, 1.00002, 0.0]])
    return Outputs.of(logits, torch.tensor([1, 0, 2]), ("a", "b", "c"))


def test_they_are_read_as_they_were_written_and_equal_ones_are_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        some().save(tmp_path / name)
    found = Outputs.load(tmp_path / "one")
    assert found
    assert torch.equal(found.logits, some().logits)
    assert found.predicted.tolist() == [1, 0, 1]  # in half precision the last is a tie
    assert (found.labels.tolist(), found.classes) == ([1, 0, 2], ("a", "b", "c"))
    assert (tmp_path / "one" / NAME).read_bytes() == (tmp_path / "two" / NAME).read_bytes()
    assert Outputs.load(tmp_path) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"logits": torch.zeros(3, 3)},
        {"logits": torch.zeros(3, 2, dtype=torch.float16)},
        {"logits": torch.zeros(0, 3, dtype=torch.float16)},
        {"logits": torch.full((3, 3), torch.nan, dtype=torch.float16)},
        {"labels": torch.tensor([0, 1, 3], dtype=torch.int16)},
        {"predicted": torch.tensor([0, -1, 2], dtype=torch.int16)},
        {"predicted": torch.tensor([0, 1], dtype=torch.int16)},
    ],
    ids=str,
)
def test_what_is_not_what_was_written_is_said(tmp_path: Path, wrong: dict[str, torch.Tensor]) -> None:
    made = some()
    tensors = {"logits": made.logits, "labels": made.labels, "predicted": made.predicted} | wrong
    safetensors.torch.save_file(tensors, tmp_path / NAME, {"pruning": '{"classes": ["a", "b", "c"]}'})
    with pytest.raises(DamagedError, match=r"logits.safetensors is damaged: it holds no logits"):
        Outputs.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8, (10**15).to_bytes(8, "little") + b"{}"])
def test_garbage_too(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DamagedError):
        Outputs.load(tmp_path)


def test_and_a_directory_too(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(DamagedError):
        Outputs.load(tmp_path)
