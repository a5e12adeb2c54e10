"""Processes are killed at random moments until a sweep is done; nothing of that may be seen in what it leaves."""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from pruning import checkpoints
from pruning.runs import every
from tests.commands import Command, Running, Server
from tests.test_pool import LONG, alive, gone, holders, start, workers

SIZES = ("train.epochs=2", "finetune.epochs=1", "train.batch_size=128", "finetune.batch_size=128")
SWEEP = (*SIZES, "prune.percent=0.3,0.6,0.9", "seed=0,1", "hydra.launcher.workers=2", "-m")
STEPS, EPOCHS = 2 + 6 + 6, {"train": 2, "prune": 0, "finetune": 1}
ROUNDS = 8  # with kills; then one without


def models(runs: Path) -> dict[str, bytes]:
    """Return the model of each step that is done."""
    return {run.path.name: run.model.read_bytes() for run in every(runs) if run.result()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, server: Server) -> dict[str, bytes]:
    command = Command(tmp_path_factory.mktemp("reference"), server)
    done = start(command, *SWEEP).wait(LONG)
    assert (done.returncode, done.stderr) == (0, "")
    return models(command.runs)


def check(runs: Path, reference: dict[str, bytes]) -> int:
    """Hold everything that says it is done to what an undisturbed sweep has made; return how much that is."""
    for run in every(runs):
        if result := run.result():
            assert checkpoints.load(run.model).arch == result["arch"]
            rows = [json.loads(line)["epoch"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
            assert rows == list(range(1, EPOCHS[result["stage"]] + 1)), run.path.name
    found = models(runs)
    assert {name: reference[name] for name in found} == found
    return len(found)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def disturb(running: Running, runs: Path, chance: random.Random, reference: dict[str, bytes]) -> None:
    """Kill workers, and in a third of the rounds the parent, until the command ends."""
    parent_dies = chance.random() < 1 / 3
    for _ in range(chance.randint(1, 3)):
        at_work = chance.random() < 0.8  # else a worker that still starts, or is between two steps
        while running.status() is None and not (holders(runs) if at_work else workers(running)):
            time.sleep(0.01)
        time.sleep(chance.choice([0, 0.05, 0.5, 2]) * chance.random())
        if running.status() is not None:
            return
        if targets := sorted(process.pid for process in workers(running)):
            kill(chance.choice(targets))
        check(runs, reference)
    if parent_dies:
        time.sleep(chance.random())
        if running.status() is None:
            running.kill(signal.SIGKILL)


def belonging(runs: Path) -> list[psutil.Process]:
    """Return the workers of the sweep in `runs`, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "pruning.worker" in (line := process.cmdline()) and any(str(runs) in word for word in line):
                found.append(process)
    return [process for process in found if alive(process)]


@pytest.mark.parametrize("seed", [0])
def test_a_sweep_whose_processes_are_killed_again_and_again(
    command: Command, reference: dict[str, bytes], seed: int
) -> None:
    assert len(reference) == STEPS
    chance, done, killed, said = random.Random(seed), None, 0, []
    for _ in range(ROUNDS):
        running = start(command, *SWEEP)
        disturb(running, command.runs, chance, reference)
        done = running.wait(LONG)
        assert done.returncode in (0, 1, -signal.SIGKILL), done.stderr
        assert "Traceback" not in done.stderr
        killed += done.returncode != 0
        said.append((done.returncode, check(command.runs, reference)))
        if done.returncode == 0:
            break
    done = start(command, *SWEEP).wait(LONG)
    assert (done.returncode, done.stderr) == (0, ""), said
    assert check(command.runs, reference) == STEPS and models(command.runs) == reference
    assert killed, "nothing was disturbed"
    assert not holders(command.runs) and gone(belonging(command.runs))
    for run in every(command.runs):  # no trace of what was cut off
        names = {"config.json", "log.txt", "metrics.jsonl", "model.safetensors", "picture.png", "result.json"}
        assert {path.name for path in run.path.iterdir()} == names
    print(said)
