"""Rewinding to an epoch, end to end: the dense run keeps its network of that epoch, whatever happens on the way."""

import shutil
import signal
from pathlib import Path

import pytest
import torch

from pruning import checkpoints, masks
from pruning.files import sha256
from pruning.runs import every
from tests.commands import Command, Server, undisturbed_runs
from tests.helpers import by_stage, epochs, lasting, quick, result, rows

Small = tuple[str, ...]
REWIND = ("stage=rewind", "rewind.epoch=2", "levels=iterative", "levels.count=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, server: Server, small: Small) -> Path:
    """The runs of a lottery ticket of two levels, rewound to epoch 2 of 3."""
    return undisturbed_runs(tmp_path_factory.mktemp("rewound"), server, *small, *REWIND)


def test_the_kept_weights_go_back_to_what_the_dense_network_was(
    undisturbed: Path, command: Command, small: Small
) -> None:
    dense = by_stage(undisturbed)["train"]
    kept = dense.path / "epoch-2.safetensors"
    assert result(dense).get("snapshots") == {"2": sha256(kept)}
    levels = [run for run in every(undisturbed) if run.path.name.startswith("rewind-")]
    assert [(len(rows(run)), result(run)["epochs"]) for run in levels] == [(1, 1), (1, 1)]
    assert all(rows(run)[0]["lr"] == rows(dense)[2]["lr"] for run in levels)  # of the epoch that follows
    shutil.copytree(undisturbed, command.runs)
    done = command(*small, *REWIND, "rewind.lr=1e-30", "rewind.weight_decay=0")  # it stays where it begins
    assert (done.returncode, done.stderr) == (0, "")
    start = checkpoints.load(kept)
    still = [run for run in every(command.runs) if run.path.name.startswith("rewind-") and run not in levels]
    for made in [checkpoints.load(run.model) for run in still if "1e-30" in str(result(run).get("settings"))]:
        wanted = masks.masked(start.weights, made.mask)
        names = [name for name, value in wanted.items() if value.ndim > 1]
        assert all(torch.equal(made.weights[name], wanted[name]) for name in names)
        assert not start.mask


MOMENTS = {
    "as the snapshot is written": ("train-*/epoch-2.safetensors", 0),
    "after the snapshot": ("train-*", 2),
    "as the rewound training starts": ("rewind-*/config.json", 0),
    "as the second level ends": ("rewind-*p0.8*/model.safetensors", 0),
}


@pytest.mark.parametrize("moment", quick("as the snapshot is written", of=MOMENTS))
def test_a_killed_rewinding_continues_to_the_same_bytes(
    command: Command, small: Small, undisturbed: Path, moment: str
) -> None:
    pattern, count = MOMENTS[moment]
    running = command.start(*small, *REWIND)
    running.until(lambda: epochs(command.runs, pattern) >= count if count else [*command.runs.glob(pattern)])
    running.kill(signal.SIGKILL)
    running.wait()
    done = command(*small, *REWIND)
    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(command.runs) == lasting(undisturbed)


def test_what_a_run_has_not_kept_is_said_before_any_work_and_redo_makes_it(
    undisturbed: Path, command: Command, small: Small
) -> None:
    shutil.copytree(undisturbed, command.runs)
    dense, other = by_stage(command.runs)["train"], ("stage=rewind", "rewind.epoch=1")
    refused = command(*small, *other)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"the network of {dense.path.name} as it was after epoch 1" in refused.stderr
    assert "give redo=train" in refused.stderr
    assert command(*small, *REWIND).returncode == 0  # nothing is to be made, so nothing is missing
    done = command(*small, *other, "redo=train", "env.snapshots=[2,7]")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(result(dense).get("snapshots", {})) == {"1", "2"}
    assert (dense.path / "epoch-2.safetensors").read_bytes() == (
        undisturbed / dense.path.name / "epoch-2.safetensors"
    ).read_bytes()


def test_a_snapshot_that_is_not_what_was_kept_is_found(undisturbed: Path, command: Command, small: Small) -> None:
    shutil.copytree(undisturbed, command.runs)
    kept = by_stage(command.runs)["train"].path / "epoch-2.safetensors"
    found = checkpoints.load(kept)
    found.weights["fc.bias"][0] += 1
    found.save(kept)
    refused = command(*small, *REWIND, "rewind.lr=0.01")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert str(kept) in refused.stderr
