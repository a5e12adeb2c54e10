"""The published system in one command: iterative, one-cycle, distilled; killed twice on the way."""

import signal
from functools import partial
from pathlib import Path

import pytest

from pruning.runs import every
from tests.commands import Command, Server, undisturbed_runs
from tests.helpers import by_stage, epochs, lasting, result, rows, slow

Small = tuple[str, ...]
ONE_CYCLE = ("schedule=one_cycle", "warmup=0.1", "start=0.1", "end=1e-4", "momentum_cycle=[0.95,0.85]")
CHAIN = ("stage=distill", "levels=iterative", "levels.count=2", "prune.percent=0.9")
PUBLISHED: Small = (*CHAIN, *(f"finetune.{each}" for each in ONE_CYCLE))


def at_work(runs: Path, pattern: str) -> bool:
    return epochs(runs, pattern) >= 1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, server: Server, small: Small) -> Path:
    return undisturbed_runs(tmp_path_factory.mktemp("published"), server, *small, *PUBLISHED)


def test_its_chain(undisturbed: Path) -> None:
    stages = [run.path.name.partition("-")[0] for run in every(undisturbed)]
    assert sorted(stages) == sorted(["train", "prune", "finetune", "prune", "distill"])
    last = by_stage(undisturbed)["distill"]
    settings = result(last).get("settings") or {}
    assert (settings["distill.schedule"], settings["distill.momentum_cycle"]) == ("one_cycle", [0.95, 0.85])
    assert "distill.momentum" not in settings  # it is cycled
    assert result(last)["percent"] == 0.9
    rates = [row["lr"] for row in rows(last)]
    assert rates == sorted(rates, reverse=True)


@slow
def test_killed_in_two_of_its_trainings_it_comes_to_the_same_bytes(
    command: Command, small: Small, undisturbed: Path
) -> None:
    for pattern in ("finetune-*", "distill-*"):
        running = command.start(*small, *PUBLISHED)
        running.until(partial(at_work, command.runs, pattern))
        running.kill(signal.SIGKILL)
        running.wait()
        assert not [run for run in every(command.runs) if run.path.name.startswith("distill") and run.done]
    done = command(*small, *PUBLISHED)
    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(command.runs) == lasting(undisturbed)
