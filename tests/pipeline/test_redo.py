"""`redo=STAGE`, and the record of who made a step with which code."""

import json
import shutil
from pathlib import Path

import pytest

from pruning.errors import UserError
from pruning.pipeline import redo
from pruning.runs import Run, every
from tests.commands import Command
from tests.helpers import by_stage, lasting, models, result, slow
from tests.runs.steps import DENSE, PRUNED, STEPS, TUNED, place, step, taken

Small = tuple[str, ...]
OTHER = step("finetune", PRUNED, epochs=3, lr=0.5)  # of another command


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for one in (*STEPS, OTHER):
        run = place(tmp_path, one, result={})
        run.write_config(one, {"host": "here"})
    return tmp_path


def names(runs: Path) -> set[str]:
    return {run.path.name for run in every(runs)}


@pytest.mark.parametrize(
    ("stage", "left"),
    [("finetune", (DENSE, PRUNED, OTHER)), ("prune", (DENSE,)), ("train", ())],
)
def test_a_stage_and_all_that_came_of_it_is_moved_aside_whoever_made_it(
    runs: Path, stage: str, left: tuple[object, ...]
) -> None:
    expected = {one.name for one in (DENSE, PRUNED, TUNED, OTHER) if one in left}
    moved = redo.set_aside(stage, STEPS, runs)
    assert names(runs) == expected
    assert {path.name for path in moved} == {one.name for one in (*STEPS, OTHER)} - expected
    for path in moved:
        assert (path / "result.json").exists()
        assert path.parent.parent == runs / ".redone"


def test_without_a_stage_nothing_is_moved(runs: Path) -> None:
    assert redo.set_aside(None, STEPS, runs) == []
    assert len(names(runs)) == 4


def test_what_is_made_just_now_is_not_moved(runs: Path) -> None:
    claim = taken(runs / OTHER.name)
    with pytest.raises(
        UserError, match=rf"^redo=prune: {OTHER.name} is made just now by process \d+ on .*; stop that first$"
    ):
        redo.set_aside("prune", STEPS, runs)
    assert len(names(runs)) == 4
    claim.release()
    with pytest.raises(UserError, match=r"^redo must be one of .*, got 'prun'; did you mean prune\?$"):
        redo.set_aside("prun", STEPS, runs)


def test_moving_twice_in_one_second_loses_nothing(runs: Path) -> None:
    first = redo.set_aside("finetune", STEPS, runs)
    place(runs, TUNED, result={}).write_config(TUNED, {})
    second = redo.set_aside("finetune", STEPS, runs)
    assert len({*first, *second}) == 2
    assert all(path.is_dir() for path in (*first, *second))


@slow
@pytest.mark.parametrize("way", [(), ("seed=0,1", "-m")])
def test_the_command_makes_them_anew(command: Command, small: Small, chain: Path, way: tuple[str, ...]) -> None:
    shutil.copytree(chain, command.runs)
    before = {run.path.name: run.model.stat().st_ino for run in every(command.runs)}
    planned = command(*small, "finetune.epochs=1", "redo=prune", "hydra/launcher=plan", *way)
    assert "redo=prune: 2 runs would be moved aside first, and made anew" in planned.stdout
    assert names(command.runs) == set(before)
    done = command(*small, "finetune.epochs=1", "redo=prune", *way)
    assert (done.returncode, done.stderr) == (0, "")
    after = {run.path.name: run.model.stat().st_ino for run in every(command.runs) if run.path.name in before}
    assert {name.partition("-")[0] for name in before if before[name] != after[name]} == {"prune", "finetune"}
    assert models(chain).items() <= models(command.runs).items()  # the code is the same
    (aside,) = (command.runs / ".redone").iterdir()
    assert names(aside) | names(command.runs) >= set(before)
    assert f"moved to {aside}, to be made anew" in done.stdout


@slow
def test_ancestors_are_not_made_again_when_what_is_wanted_is_there(command: Command, small: Small, chain: Path) -> None:
    shutil.copytree(chain, command.runs)
    shutil.rmtree(by_stage(command.runs)["train"].path)
    for way in ((), ("-m",)):
        done = command(*small, "finetune.epochs=1", *way)
        assert (done.returncode, done.stderr) == (0, "")
        assert "starts" not in done.stdout
        assert set(by_stage(command.runs)) == {"prune", "finetune"}
    planned = command(*small, "finetune.epochs=1", "hydra/launcher=plan").stdout
    assert "not needed" in planned
    assert "nothing to train" in planned
    done = command(*small, "finetune.epochs=2")  # it starts from the prune step, and needs no more
    assert (done.returncode, done.stderr) == (0, "")
    assert {run.path.name.partition("-")[0] for run in every(command.runs)} == {"prune", "finetune"}


@slow
def test_every_attempt_is_recorded(command: Command, small: Small) -> None:
    running = command.start(*small)
    running.until(lambda: [*command.runs.glob("train-*/resume.pt")])
    running.kill(9)
    running.wait()
    assert command(*small).returncode == 0
    attempts = {
        stage: json.loads((run.path / "config.json").read_text())["attempts"]
        for stage, run in by_stage(command.runs).items()
    }
    assert {stage: len(found) for stage, found in attempts.items()} == {"train": 2, "prune": 1, "finetune": 1}
    for attempt in attempts["train"]:
        assert {"when", "code", "libraries", "device", "threads", "host"} <= set(attempt)
        assert attempt["code"]["commit"]
        assert attempt["threads"] == 1
    assert attempts["train"][0]["when"] < attempts["train"][1]["when"]


@slow
def test_a_killed_redo_goes_on(command: Command, small: Small, chain: Path) -> None:
    shutil.copytree(chain, command.runs)
    shutil.rmtree(by_stage(command.runs)["finetune"].path)  # as if the move had been stopped after the first
    done = command(*small, "finetune.epochs=1", "redo=prune")
    assert (done.returncode, done.stderr) == (0, "")
    shutil.rmtree(command.runs / ".redone")
    assert {name: found[1:2] for name, found in lasting(command.runs).items()} == {
        name: found[1:2] for name, found in lasting(chain).items()
    }
    assert Run(next(iter(every(command.runs))).path).done
    assert result(by_stage(command.runs)["finetune"])["level"] == 1
