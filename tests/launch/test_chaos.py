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
SWEEP = (*SIZES, "prune.percent=0.3,0.6,0.9", "seed=0,1", "hydra.launcher.workers=2")
STEPS, EPOCHS = 2 + 6 + 6, {"train": 2, "prune": 0, "finetune": 1}
ROUNDS = ("parent", "workers", "workers and parent", "workers") * 2  # what is killed; then one without


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


def disturb(running: Running, runs: Path, targets: str, chance: random.Random) -> None:
    """Kill what `targets` says at random moments, or nothing if the command ends before."""

    def pause() -> None:
        at_work = chance.random() < 0.8  # else a worker that still starts, or is between two steps
        while running.status() is None and not (holders(runs) if at_work else workers(running)):
            time.sleep(0.01)
        time.sleep(chance.choice([0, 0.1, 1, 4]) * chance.random())

    for _ in range(chance.randint(2, 4) if "workers" in targets else 0):
        pause()
        if pids := sorted(process.pid for process in workers(running)):
            kill(chance.choice(pids))
    if "parent" in targets:
        pause()
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


def test_a_sweep_whose_processes_are_killed_again_and_again(command: Command, reference: dict[str, bytes]) -> None:
    assert len(reference) == STEPS
    chance, ends = random.Random(0), []
    for targets in ROUNDS:
        running = start(command, *SWEEP)
        disturb(running, command.runs, targets, chance)
        check(command.runs, reference)  # while the rest goes on
        done = running.wait(LONG)
        assert "Traceback" not in done.stderr
        ends.append((targets, done.returncode, check(command.runs, reference)))
        if ends[-1][-1] == STEPS:
            break
    done = start(command, *SWEEP).wait(LONG)
    assert (done.returncode, done.stderr) == (0, ""), ends
    assert check(command.runs, reference) == STEPS and models(command.runs) == reference
    assert {end for _, end, _ in ends} >= {1, -signal.SIGKILL} and {end for _, end, _ in ends} <= {0, 1, -9}, ends
    assert not holders(command.runs) and gone(belonging(command.runs))
    for run in every(command.runs):  # no trace of what was cut off
        names = {"config.json", "log.txt", "metrics.jsonl", "model.safetensors", "picture.png", "result.json"}
        assert {path.name for path in run.path.iterdir()} == names
