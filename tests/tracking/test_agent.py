"""Sweeps and W&B, with the real wandb client and its agent."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pruning.runs import Run, claims, every
from tests.commands import ROOT, Command
from tests.helpers import by_stage, result, slow
from tests.tracking.fake_wandb import SWEEP, FakeWandb
from tests.tracking.read_wandb import epochs

Small = tuple[str, ...]
CELLS = ("hydra.mode=MULTIRUN", "prune.percent=0.3,0.8", "hydra.launcher.workers=1")


def by_id(runs: Path) -> dict[str, Run]:
    return {result(run)["id"]: run for run in every(runs)}


def training(runs: Path) -> list[int]:
    """Return the processes that have saved an epoch of a training and go on with it."""
    holders = [claims.held(path.parent) for path in runs.glob("train-*/resume.pt")]
    return [holder["pid"] for holder in holders if holder]


@slow
def test_a_sweep_is_one_group_with_no_epoch_twice_after_a_worker_was_killed(
    command: Command, small: Small, wandb_server: FakeWandb
) -> None:
    sweep = (*small, "train.epochs=20", *CELLS)
    running = command.start(*sweep, **wandb_server.environment)
    running.until(lambda: training(command.runs))
    os.kill(training(command.runs)[0], signal.SIGKILL)
    assert running.wait().returncode == 1
    done = command(*sweep, **wandb_server.environment)
    assert (done.returncode, done.stderr) == (0, "")
    runs = by_id(command.runs)
    assert len(runs) == 1 + 2 + 2
    assert {id for id in wandb_server.runs if not id.startswith("sweep-")} == set(runs)  # and its report
    (record,) = (command.runs / ".sweeps").glob("*.json")
    for id, run in runs.items():
        seen = wandb_server.runs[id]
        assert (seen.about["groupName"], seen.exit_code) == (record.stem, 0)
        assert [row["epoch"] for row in epochs(seen.history)] == [row["epoch"] for row in run.rows()]


@slow
def test_with_the_server_dead_the_sweep_finishes(command: Command, small: Small) -> None:
    with FakeWandb() as server:
        environment = server.environment
    done = command(*small, *CELLS, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(by_id(command.runs)) == 5
    assert any("W&B does not answer" in path.read_text() for path in command.runs.glob("*/log.txt"))


def is_cell(server: FakeWandb, name: str, step: Run) -> None:
    """The run that the agent reserved must have the result of `step`, and each step a run of the sweep's group."""
    cell = server.runs[name]
    assert (cell.about["sweep"], cell.about["jobType"]) == (SWEEP, "cell")
    assert cell.config["step"]["value"] == result(step)["id"]
    assert (cell.summary["percent"], cell.summary["test_top1"]) == (result(step)["percent"], result(step)["test_top1"])
    steps = by_id(step.path.parent)
    assert set(server.runs) == {*steps, name}
    assert {server.runs[id].about["groupName"] for id in steps} == {SWEEP}


@slow
def test_under_an_agent_its_run_has_the_result_of_the_cell(
    command: Command, small: Small, wandb_server: FakeWandb
) -> None:
    agent = {"WANDB_SWEEP_ID": SWEEP, "WANDB_RUN_ID": "reserved", "WANDB_DIR": str(command.home)}
    done = command(*small, "stage=train", **agent, **wandb_server.environment)
    assert (done.returncode, done.stderr) == (0, "")
    (step,) = every(command.runs)
    is_cell(wandb_server, "reserved", step)


@slow
def test_an_agent_of_a_wandb_sweep_runs_main(
    small: Small, wandb_server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    for name, value in {**wandb_server.environment, "WANDB_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE")
    sweep: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "sweeps" / "wandb" / "ratios.yaml"), resolve=False)
    fixed = dict(word.split("=", 1) for word in (*small, f"env.runs={tmp_path / 'runs'}", f"env.data={tmp_path}"))
    sweep["parameters"] |= {key: {"value": value} for key, value in fixed.items()}
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))  # is YAML too
    wandb_server.cells = [{"prune.percent": 0.3, "seed": 0, **fixed}]
    for words in (["sweep", tmp_path / "sweep.yaml"], ["agent", SWEEP]):
        done = subprocess.run([tools / "wandb", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    steps = by_stage(tmp_path / "runs")
    assert len(steps) == 3
    is_cell(wandb_server, "cell0", steps["finetune"])
