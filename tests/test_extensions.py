"""What tests/extension/toy.py adds from outside works everywhere, named by `env.imports`, in every process."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pruning import checkpoints, tracking
from pruning.env import Env
from pruning.errors import UserError
from pruning.execution.execute import run_step
from pruning.execution.stop import StopRequest
from pruning.masks import CRITERIA
from pruning.pipeline import plan
from pruning.runs import Run, Step, every
from tests.commands import Command
from tests.helpers import by_stage, models, result, slow
from tests.pipeline.made import composed

IMPORTS = "env.imports=[tests.extension.toy]"
TOY = (IMPORTS, "stage.name=average", "+average.share=0.6")
LEVELS = ("levels=iterative", "prune.percent=0.8", "train.epochs=2", "finetune.epochs=1")


def test_a_criterion_and_a_scope_with_settings(command: Command, small: tuple[str, ...]) -> None:
    settings = ("prune.criterion=noisy", "+prune.noise=0.2", "prune.scope=but_first", "+prune.dense=2")
    done = command(*small, IMPORTS, "stage=prune", *settings)
    assert (done.returncode, done.stderr) == (0, "")
    run = by_stage(command.runs)["prune"]
    mask = checkpoints.load(run.model).mask
    kept = [bool(keep.all()) for keep in mask.values()]
    assert kept == [True, True] + [False] * (len(mask) - 2)
    figures, step = result(run), run.step()
    assert figures["prunable"] - figures["prunable_nonzero"] == round(0.8 * figures["prunable"])
    assert step is not None
    assert step.recipe == {"percent": 0.8, "criterion": "noisy", "noise": 0.2, "scope": "but_first", "dense": 2}


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("+prune.noise=2", "prune.noise must be in [0, 1], got 2"),
        ("+prune.noise=much", "prune.noise must be a number, got 'much'"),
        ("+prune.nose=1", "a setting of prune must be one of"),
        ("+average.share=7", "average.share must be in [0, 1], got 7"),
    ],
)
def test_their_settings_are_checked_before_any_work(command: Command, override: str, error: str) -> None:
    done = command("prune.criterion=noisy", IMPORTS, "stage.name=average", "levels=iterative", override)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"error: {error}")
    assert not command.runs.exists()


@pytest.fixture
def toy_run(command: Command, small: tuple[str, ...]) -> Path:
    """Three levels and the toy stage, in one process."""
    done = command(*small, *LEVELS, *TOY)
    assert (done.returncode, done.stderr) == (0, "")
    header, _, *lines = done.stdout.partition("\nstep ")[2].partition("\n\n")[0].splitlines()
    assert header.split()[-1] == "level"
    assert [line.split()[-1] for line in lines] == list("01122333")
    return command.runs


@slow
def test_a_stage_with_two_inputs_after_three_levels_on_every_local_way(
    toy_run: Path, command: Command, small: tuple[str, ...], tmp_path: Path
) -> None:
    steps = {run.path.name: step for run in every(toy_run) if (step := run.step())}
    assert sorted(step.level for step in steps.values()) == [0, 1, 1, 2, 2, 3, 3, 3]
    (last,) = [step for step in steps.values() if step.stage == "average"]
    assert set(last.inputs) == {"dense", "earlier"}
    of_role = {role: next(step for step in steps.values() if step.id == ref) for role, ref in last.inputs.items()}
    assert (of_role["dense"].level, of_role["dense"].stage) == (0, "train")
    assert (of_role["earlier"].level, of_role["earlier"].stage) == (2, "finetune")
    assert last.id == Step.from_json(json.loads(json.dumps(last.to_json()))).id
    average = Run.for_step(last, toy_run)
    assert result(average)["sparsity"] == result(Run(toy_run / last.places[last.parent or ""]))["sparsity"]

    workers = command(*small, *LEVELS, *TOY, "hydra.launcher.workers=2", "-m", runs=tmp_path / "m")
    assert (workers.returncode, workers.stderr) == (0, "")
    assert models(tmp_path / "m") == models(toy_run)


MINE = """
from pruning import CRITERIA, Criterion

def mine(given):
    return {name: POWER * weight.detach().abs() for name, weight in given.weights.items()}

CRITERIA["mine"] = Criterion(mine)
"""


def planned(command: Command, folder: Path, *overrides: str) -> dict[str, str]:
    """Return the id of each step as a new process plans it, with modules in `folder`."""
    words = ("env.imports=[mine]", *overrides, "hydra/launcher=plan")
    done = command(*words, cold=True, PYTHONPATH=str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split()[:2] for line in done.stdout.splitlines()]
    return {row[0]: row[1] for row in rows if row and row[0] in ("train", "prune", "finetune")}


@slow
def test_ids_hold_the_source_of_what_is_not_ours(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE.replace("POWER", "2"))
    one = planned(command, tmp_path, "prune.criterion=mine")
    without = planned(command, tmp_path)
    file.write_text(MINE.replace("POWER", "3"))
    (tmp_path / "another.py").write_text("x = 1")
    other = planned(command, tmp_path, "prune.criterion=mine")
    assert {stage for stage in one if one[stage] != other[stage]} == {"prune", "finetune"}
    assert planned(command, tmp_path) == without  # the module is imported, and decides nothing
    file.write_text(MINE.replace("POWER", "2"))
    assert planned(command, tmp_path, "prune.criterion=mine") == one


def test_a_step_is_not_made_with_other_code_than_it_was_planned_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, small: tuple[str, ...]
) -> None:
    """A SLURM task may wait for days."""
    (tmp_path / "mine_too.py").write_text(MINE.replace("POWER", "2").replace('"mine"', '"mine_too"'))
    monkeypatch.syspath_prepend(tmp_path)
    env = Env.from_config({"runs": str(tmp_path / "runs"), "device": "cpu", "imports": ["mine_too"]})
    try:
        config = composed(*small, "prune.criterion=mine_too", "train.epochs=1", "train.precision=fp32")
        dense, pruned, _ = plan.chain(config, env)
        run_step(dense, env, tracking.Reporter(), StopRequest())
        later = replace(pruned, code={"mine_too": "sha256:0"})
        text = r"^mine_too changed after prune-.* was planned; give its command again$"
        with pytest.raises(UserError, match=text):
            run_step(later, env, tracking.Reporter(), StopRequest())
        with pytest.raises(UserError, match=r"planned for version 1 of the steps, this program makes version \d+"):
            run_step(replace(pruned, version=1), env, tracking.Reporter(), StopRequest())
        run_step(pruned, env, tracking.Reporter(), StopRequest())
    finally:
        CRITERIA.pop("mine_too")
