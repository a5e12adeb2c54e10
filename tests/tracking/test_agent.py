"""Sweeps and W&B: against the test server, whose kind of requests is that of the real one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pruning.runs import claims
from pruning.runs import every
from tests.commands import ROOT, Command
from tests.tracking.fake_wandb import FakeWandb
from tests.tracking.test_wandb import epochs, online

SWEEP = ("hydra.mode=MULTIRUN", "prune.percent=0.3,0.8", "hydra.launcher.workers=1")


@pytest.fixture
def wandb_server() -> Iterator[FakeWandb]:
    running = FakeWandb()
    yield running
    running.close()


def kill_a_worker(command: Command) -> None:
    """Kill -9 the process that has saved an epoch of a training and goes on with it."""
    (holder, *_) = [holder for path in command.runs.glob("train-*/resume.pt") if (holder := claims.held(path.parent))]
    os.kill(holder["pid"], signal.SIGKILL)


def test_one_run_a_step_in_one_group_and_no_epoch_twice_after_a_kill(
    command: Command, small: tuple[str, ...], wandb_server: FakeWandb
) -> None:
    running = command.start(*small, "train.epochs=20", *SWEEP, **online(wandb_server))
    running.until(lambda: any(claims.held(path.parent) for path in command.runs.glob("train-*/resume.pt")))
    kill_a_worker(command)
    assert running.wait().returncode == 1
    done = command(*small, "train.epochs=20", *SWEEP, **online(wandb_server))
    assert (done.returncode, done.stderr) == (0, "")
    runs = {run.id: run for run in every(command.runs)}
    assert len(runs) == 1 + 2 + 2 and set(wandb_server.store.runs) == set(runs)
    (group,) = {seen["groupName"] for seen in wandb_server.store.runs.values()}
    (record,) = (command.runs / ".sweeps").glob("*.json")
    assert group == record.stem
    for id, run in runs.items():
        seen = wandb_server.store.runs[id]
        assert [row["epoch"] for row in epochs(seen["history"])] == [row["epoch"] for row in run.rows()]
        assert seen["complete"] == 0


def test_with_the_server_dead_the_sweep_finishes(command: Command, small: tuple[str, ...]) -> None:
    server = FakeWandb()
    settings = online(server)
    server.close()
    done = command(*small, *SWEEP, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(run.result() for run in every(command.runs)) and len(list(every(command.runs))) == 5
    assert any("W&B does not answer" in path.read_text() for path in command.runs.glob("*/log.txt"))


def test_an_agent_of_a_wandb_sweep_runs_main(
    small: tuple[str, ...], wandb_server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Path(sys.executable).parent
    for name, value in {**online(wandb_server), "WANDB_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    sweep = yaml.safe_load((ROOT / "sweeps" / "wandb" / "ratios.yaml").read_text())
    fixed = dict(word.split("=", 1) for word in (*small, f"env.runs={tmp_path / 'runs'}", f"env.data={tmp_path}"))
    sweep["parameters"] |= {key: {"value": value} for key, value in fixed.items()}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    made = subprocess.run([tools / "wandb", "sweep", tmp_path / "sweep.yaml"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    wandb_server.store.grid = [{"prune.percent": 0.3, "seed": 0, **fixed}]
    agent = subprocess.run([tools / "wandb", "agent", "--count", "1", "sw1"], cwd=ROOT, capture_output=True, text=True)
    assert agent.returncode == 0, agent.stderr
    store, steps = wandb_server.store, {run.id: run for run in every(tmp_path / "runs")}
    assert len(steps) == 3 and set(store.runs) == {*steps, "swr0"}
    cell = store.runs["swr0"]
    assert (cell["sweep"], cell["jobType"], cell["summary"]["percent"]) == ("sw1", "cell", 0.3)
    assert cell["summary"]["test_top1"] == steps[cell["summary"]["id"]].result()["test_top1"]  # type: ignore[index]
    assert {store.runs[id]["groupName"] for id in steps} == {"sw1"}
