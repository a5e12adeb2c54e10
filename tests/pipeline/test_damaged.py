"""One bad file spoils one run, not all: whatever is in `env.runs`, the others are seen and made."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning import results
from pruning.errors import UserError
from pruning.pipeline import forecast
from pruning.pipeline.status import status_text
from pruning.pipeline.sweep import Sweep
from pruning.runs import Run, StepState, find, status_of
from pruning.runs.records import FOLDER
from tests.commands import Command
from tests.helpers import by_stage, models, slow
from tests.pipeline.made import place, sweep_of

CELLS = [(percent, seed, "finetune") for percent in (0.3, 0.6) for seed in (0, 1)]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return what puts something else in the place of a file or a directory."""

    def damage(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return damage


def written(content: bytes) -> Callable[[Path], None]:
    return replaced(lambda path: path.write_bytes(content))


SHAPES: list[Any] = [
    None,
    5,
    "x",
    [],
    {},
    [[]],
    {"id": 5},
    {"spec": 1, "unhashed": []},
    {"steps": 3, "name": [], "when": {}},
]
HOW: dict[str, Callable[[Path], None]] = {
    "empty": emptied,
    "torn": torn,
    "garbage": written(bytes(range(256)) * 20),
    "no text": written(b"\xff\xfe{"),
    "deep": written(b"[" * 100_000),
    "deep and whole": written(b"[" * 500 + b"]" * 500),
    "huge number": written(b'{"id": ' + b"9" * 10_000 + b"}"),
    "not finite": written(b'{"seconds": NaN, "when": Infinity, "error": 1e999}'),
    "a directory": replaced(Path.mkdir),
    "a FIFO": replaced(os.mkfifo),
    "a link to itself": replaced(lambda path: path.symlink_to(path.name)),
    "a broken link": replaced(lambda path: path.symlink_to("nowhere")),
    **{f"shape {json.dumps(shape)}": written(json.dumps(shape).encode()) for shape in SHAPES},
}
FILES = (
    *(
        "config.json",
        "result.json",
        "model.safetensors",
        "metrics.jsonl",
        "failed.json",
        "claim-1",
        "log.txt",
        "resume.pt",
    ),
    *("picture.png", "logits.safetensors", ".", FOLDER, f"{FOLDER}/jobs.jsonl", f"{FOLDER}/SWEEP"),
)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A sweep of ten steps: one is failed, the others are done."""
    found = sweep_of(CELLS, tmp_path / "runs", "night")
    found.record()
    for step in found.steps:
        ended = {"failed": {"error": "ValueError: no", "traceback": "", "when": 1.0}} if step is found.steps[-1] else {}
        run = place(found.env.runs, step, rows=3, **(ended or {"result": {"seconds": 5.0, "epochs": step.epochs}}))
        run.write_config(step, {})
        run.log.write_text("first\nlast\n")
        (run.path / "picture.png").write_bytes(b"x")
        (run.path / "resume.pt").write_bytes(b"x")
        (run.path / "claim-1").write_text("{}")
        os.utime(run.path / "claim-1", (0, 0))
    (found.env.runs / FOLDER / "jobs.jsonl").write_text('{"job": "7", "steps": ["r0"], "when": 1.0}\n')
    return found


def one(sweep: Sweep, file: str, which: int) -> Path:
    if file.startswith(FOLDER):
        return sweep.env.runs / file.replace("SWEEP", f"{sweep.title}.json")
    return Run.for_step(sweep.steps[which], sweep.env.runs).path / file


@pytest.mark.parametrize(
    ("file", "how"),
    [
        pytest.param(file, how, marks=slow if (i + j) % 5 else ())
        for i, file in enumerate(FILES)
        for j, how in enumerate(HOW)
    ],
)
def test_status_and_plan_go_on_and_name_the_file(sweep: Sweep, file: str, how: str) -> None:
    spoilt = []
    for which in (0, -1) if not file.startswith(FOLDER) else (0,):  # a step that is done, and one that has failed
        path = one(sweep, file, which)
        if not path.exists() and not path.is_symlink():
            path.write_text("{}")
        if file in (".", FOLDER) and HOW[how] in (emptied, torn):
            continue  # of a directory
        HOW[how](path if file != "." else path.parent / path.name)
        status = status_text(sweep.env.runs)
        assert "\x00" not in status
        plan = forecast.plan_text(sweep)
        assert "cells: 4" in plan
        with_warnings(sweep.env.runs)
        spoilt.append(sweep.steps[which])
        others = [step for step in sweep.steps[:-1] if step not in spoilt]
        assert {status_of(step, sweep.env.runs).state for step in others} == {StepState.DONE}
        for step in sweep.steps:
            found = find(sweep.env.runs, step.id)
            assert found is None or found.path.name == step.name
        own = status_of(sweep.steps[which], sweep.env.runs)
        if file == "result.json" and which == 0:
            assert own.state in (StepState.DAMAGED, StepState.DIED, StepState.PARTLY_DONE)
            assert own.state != StepState.DAMAGED or str(path.parent) in own.detail
        if file == "config.json" or (file.startswith(FOLDER) and file.endswith("SWEEP")):
            assert str(path) in status or "broken link" in how


def with_warnings(runs: Path) -> None:
    """Read the rows of what is done; a damaged result is a warning."""
    import warnings

    with warnings.catch_warnings(action="ignore"):
        assert len(results(runs)) >= 8 - 1


def test_a_foreign_directory_is_named_and_passed_over(sweep: Sweep) -> None:
    foreign = sweep.env.runs / "somebody's"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model": "llama"}')
    (sweep.env.runs / "file").write_text("x")
    status = status_text(sweep.env.runs)
    assert "10 steps, 9 done, 1 failed" in status
    assert f"not read:\n  {foreign / 'config.json'} is damaged: it describes no step" in status


@slow
@pytest.mark.parametrize(("file", "how"), [("result.json", "torn"), ("model.safetensors", "a FIFO"), (".", "a FIFO")])
def test_a_launch_makes_the_other_cells(command: Command, small: tuple[str, ...], file: str, how: str) -> None:
    words = (*small, "train.epochs=1", "finetune.epochs=1", "prune.percent=0.3", "stage=prune", "seed=0,1", "-m")
    assert command(*words).returncode == 0
    whole = models(command.runs)
    (damaged,) = command.runs.glob("prune-*-s1-*")
    HOW[how](damaged / file if file != "." else damaged)
    (other,) = command.runs.glob("prune-*-s0-*")
    shutil.rmtree(other)
    done = command(*words)
    assert done.returncode == 1
    assert "HYDRA_FULL_ERROR" not in done.stderr
    assert str(damaged) in done.stderr
    assert models(command.runs) == {name: model for name, model in whole.items() if name != damaged.name}
    shutil.rmtree(damaged) if damaged.is_dir() else damaged.unlink()
    assert command(*words).returncode == 0
    assert models(command.runs) == whole


@slow
def test_a_single_run_says_what_to_delete(command: Command, small: tuple[str, ...]) -> None:
    words = (*small, "train.epochs=1", "stage=train")
    assert command(*words).returncode == 0
    run = by_stage(command.runs)["train"]
    for how in ("empty", "garbage", "a directory", "not finite"):
        HOW[how](run.path / "result.json")
        done = command(*words)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith(f"error: {run.path / 'result.json'} is damaged: ")
    with pytest.raises(UserError, match="damaged"):
        run.finished()
