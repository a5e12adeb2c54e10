import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.execution.saving import Saver, copied
from tests.helpers import LONG


def state() -> dict[str, Any]:
    weights = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    shared = torch.arange(6.0)
    return {
        "model": {"conv": weights, "fc": torch.randn(5, 4), "count": torch.tensor(3), "none": torch.zeros(0, 2)},
        "optimizer": {
            "state": {0: {"momentum": torch.randn(3, 4).t(), "step": 2.0}},
            "groups": [{"lr": 0.1, "params": [0, 1]}],
        },
        "mask": {"conv": weights > 0},
        "sums": torch.zeros(2, dtype=torch.float64),
        "shared": [shared, shared],
        "half": (torch.ones(3, dtype=torch.bfloat16), None),
        "gaps": torch.arange(12.0).reshape(3, 4)[:, ::2],
    }


def parts(value: Any) -> list[Any]:
    """Return what is in nested dicts and lists, in order."""
    if isinstance(value, dict):
        return [part for key, each in value.items() for part in (key, *parts(each))]
    return [part for each in value for part in parts(each)] if isinstance(value, list | tuple) else [value]


def test_a_copy_is_equal_has_the_same_strides_and_shares_nothing() -> None:
    whole = state()
    found = copied(whole)
    for one, other in zip(parts(whole), parts(found), strict=True):
        assert type(one) is type(other)
        if isinstance(one, Tensor):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype
            assert one.stride() == other.stride() or not one.is_contiguous()
        else:
            assert one == other
    assert found["model"]["conv"].is_contiguous(memory_format=torch.channels_last)
    assert found["shared"][0] is found["shared"][1]
    before = copied(whole)
    for each in filter(torch.is_tensor, parts(found)):
        each.fill_(1)
    assert all(map(torch.equal, *(filter(torch.is_tensor, parts(value)) for value in (whole, before))))


def test_what_is_saved_is_what_was_given_whatever_becomes_of_it(tmp_path: Path) -> None:
    saver, said = Saver(tmp_path / "resume.pt", lambda: None), list[int]()
    for number in range(3):
        weights = torch.full((100,), float(number))
        saver.save({"epoch": number, "weights": weights}, partial(said.append, number))
        weights.fill_(-1)
    saver.wait()
    saver.wait()
    assert said == [0, 1, 2]
    found = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert (found["epoch"], found["weights"].unique().tolist()) == (2, [2.0])
    assert [path.name for path in tmp_path.iterdir()] == ["resume.pt"]


def test_an_error_is_raised_once_where_the_write_is_awaited_and_nothing_is_called(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    saver, said = Saver(tmp_path / "file" / "resume.pt", lambda: None), list[str]()
    saver.save({}, lambda: said.append("kept"))
    with pytest.raises(UserError, match="file"):
        saver.save({}, lambda: said.append("kept"))
    saver.wait()
    assert said == []


def test_whoever_lost_the_claim_meanwhile_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    let = threading.Event()

    def check() -> None:
        assert let.wait(LONG)
        raise UserError("taken over")

    (tmp_path / "resume.pt").write_bytes(b"another's")
    saver = Saver(tmp_path / "resume.pt", check)
    saver.save({"epoch": 1}, lambda: None)
    saver.look()  # it is not over, so there is nothing to say
    let.set()
    with pytest.raises(UserError, match="taken over"):
        saver.wait()
    assert (tmp_path / "resume.pt").read_bytes() == b"another's"
