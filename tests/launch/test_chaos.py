"""Processes are killed at random moments until a sweep is done; nothing of that may be seen in what it leaves."""

import contextlib
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
from tests.helpers import lasting, models, rows, slow
from tests.launch.processes import WORKER, alive, holders, start, until, workers

SIZES = ("train.epochs=2", "finetune.epochs=1", "train.batch_size=128", "finetune.batch_size=128")
SWEEP = (*SIZES, "prune.percent=0.3,0.6,0.9", "seed=0,1", "hydra.launcher.workers=2")
STEPS, EPOCHS = 2 + 6 + 6, {"train": 2, "prune": 0, "finetune": 1}
ROUNDS = ("parent", "workers", "workers and parent", "workers") * 2  # what is killed; then one without


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    command = Command(tmp_path_factory.mktemp("undisturbed"), server)
    done = start(command, *SWEEP).wait()
    assert (done.returncode, done.stderr) == (0, "")
    return command.runs


def whole(runs: Path, expected: dict[str, bytes]) -> int:
    """Hold all that is done to what an undisturbed sweep has made; return how many steps that is."""
    for run in every(runs):
        if result := run.result():
            assert checkpoints.load(run.model).arch == result["arch"]
            assert [row["epoch"] for row in rows(run)] == list(range(1, EPOCHS[result["stage"]] + 1)), run.path.name
    found = models(runs)
    assert {name: expected[name] for name in found} == found
    return len(found)


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
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
    if "parent" in targets:
        pause()
        if running.status() is None:
            running.kill(signal.SIGKILL)


def belonging(runs: Path) -> list[psutil.Process]:
    """Return the workers of the sweep in `runs`, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if WORKER in (line := process.cmdline()) and any(str(runs) in word for word in line):
                found.append(process)
    return [process for process in found if alive(process)]


@slow
def test_a_sweep_whose_processes_are_killed_again_and_again(command: Command, undisturbed: Path) -> None:
    expected = models(undisturbed)
    assert len(expected) == STEPS
    chance, ends = random.Random(0), []
    for targets in ROUNDS:
        running = start(command, *SWEEP)
        disturb(running, command.runs, targets, chance)
        whole(command.runs, expected)  # while the rest goes on
        done = running.wait()
        assert "Traceback" not in done.stderr
        ends.append((targets, done.returncode, whole(command.runs, expected)))
        if ends[-1][-1] == STEPS:
            break
    done = start(command, *SWEEP).wait()
    assert (done.returncode, done.stderr) == (0, ""), ends
    assert lasting(command.runs) == lasting(undisturbed)
    assert {1, -signal.SIGKILL} <= {end for _, end, _ in ends} <= {0, 1, -signal.SIGKILL}, ends
    assert not holders(command.runs)
    until(lambda: not belonging(command.runs))
