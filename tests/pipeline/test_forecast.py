import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from pruning.sweeps import Sweep

from hydra_plugins.pruning_hydra.launchers import PlanLauncher
from pruning import forecast
from pruning.runs import Env, Step
from tests.commands import Command
from tests.test_compose import Hydra, initialised
from tests.test_sweeps import chain, place, step, sweep_of

FILES = ("posix", "io", "_io", "nt")  # the modules of what asks the operating system for files
RATIOS = (0.3, 0.5, 0.7, 0.8, 0.9)


@pytest.fixture(scope="module")
def hydra() -> Iterator[Hydra]:
    with initialised() as hydra:
        yield hydra


def grid(runs: Path, stage: str = "finetune") -> Sweep:
    """5 ratios x 3 seeds."""
    return sweep_of([(percent, seed, stage) for percent in RATIOS for seed in (0, 1, 2)], runs)


def made(runs: Path, one: Step, seconds: float) -> None:
    run = place(runs, one, rows=one.epochs, result={"epochs": one.epochs, "seconds": seconds})
    run.write_config(one, {})


def test_totals_of_five_ratios_and_three_seeds(tmp_path: Path) -> None:
    assert forecast.totals(grid(tmp_path)) == [
        "cells: 15",
        "steps: 33 (3 train, 15 prune, 15 finetune); 33 missing",
        "epochs: 99, 99 of them still to make; each cell alone: 195, so sharing saves 96 (49%)",
        "time: unknown, no run like these has been made here yet",
    ]


def test_totals_of_ratios_from_the_command_line(command: Command) -> None:
    done = command("prune.percent=0.3,0.5,0.7,0.8,0.9", "seed=range(0,3)", "hydra/launcher=plan", "-m")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-4:] == forecast.totals(grid(command.runs))
    assert not command.runs.exists()


def test_a_sweep_without_training_is_planned_too(tmp_path: Path) -> None:
    lonely = Sweep((tuple(chain(0.3, 0, "prune")[1:]),), Env(tmp_path))
    assert forecast.totals(lonely)[2:] == [
        "epochs: 0, 0 of them still to make; each cell alone: 0, so sharing saves 0",
        "time: nothing to train",
    ]


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    sweep = grid(tmp_path)
    dense, pruned, tuned = chain(0.3, 0, "finetune")
    for one in (dense, pruned, tuned):
        made(tmp_path, one, one.epochs * 2.0)
    place(tmp_path, chain(0.3, 1, "train")[0], rows=3).resume.touch()
    place(tmp_path, chain(0.3, 2, "train")[0], failed={"error": "no"})
    _, steps, epochs, took = forecast.totals(sweep)
    assert steps.partition("; ")[2] == "3 done, 1 failed, 28 missing, 1 partly done"
    left = 99 - 8 - 5 - 3
    assert epochs.startswith(f"epochs: 99, {left} of them still to make; ")
    assert took == f"time: about {forecast.duration(2.0 * left)} of one worker"


def test_the_table_says_what_each_step_is_and_waits_for(tmp_path: Path) -> None:
    sweep = sweep_of([(0.3, 0, "finetune"), (0.5, 0, "prune")], tmp_path)
    dense, pruned, tuned = chain(0.3, 0, "finetune")
    other = chain(0.5, 0, "prune")[1]

    def table() -> list[list[str]]:
        return [line.split() for line in forecast.plan_text(sweep).split("\n\n")[0].splitlines()[2:]]

    told = ["dataset=digits", "arch=resnet20", "seed=0"]
    assert table() == [
        ["train", dense.id, *told, "train.epochs=8", "missing"],
        ["prune", pruned.id, "prune.percent=0.3", "missing", dense.id],
        ["finetune", tuned.id, *told, "prune.percent=0.3", "finetune.epochs=5", "missing", pruned.id],
        ["prune", other.id, "prune.percent=0.5", "missing", dense.id],
    ]
    made(tmp_path, dense, 1)
    place(tmp_path, pruned, failed={"error": "ValueError: no"})
    assert [row[-2:] for row in table()] == [
        ["train.epochs=8", "done"],
        ["ValueError:", "no"],
        ["missing", pruned.id],
        ["prune.percent=0.5", "missing"],
    ]


# time


def test_the_time_is_the_median_of_what_was_measured(tmp_path: Path) -> None:
    for seed, seconds in ((7, 10.0), (8, 20.0), (9, 90.0)):  # of 5 epochs
        made(tmp_path, step("finetune", chain(0.3, seed, "prune")[-1], seed, epochs=5), seconds)
    sweep = sweep_of([(0.3, 0, "finetune"), (0.5, 0, "finetune")], tmp_path)
    assert forecast.time_text(sweep.steps, {one.id: one.epochs for one in sweep.steps}, tmp_path) == (
        f"about {forecast.duration(18 * 4.0)} of one worker"
    )


def test_kinds_of_work_are_kept_apart(tmp_path: Path) -> None:
    known, slower = step("train", epochs=10, batch_size=32), step("train", epochs=10, batch_size=8)
    made(tmp_path, step("train", seed=5, epochs=2, batch_size=32), 6.0)
    assert forecast.seconds_per_epoch(tmp_path) == {("digits", "resnet20", "fp32", "32"): 3.0}
    left = {known.id: 10, slower.id: 10}
    unlike = "about 0 min 30 s of one worker, and 1 steps unlike any that was made here"
    assert forecast.time_text([known, slower], left, tmp_path) == unlike
    assert forecast.time_text([slower], left, tmp_path) == "unknown, no run like these has been made here yet"
    assert forecast.time_text([known], left | {known.id: 4}, tmp_path) == "about 0 min 12 s of one worker"
    assert forecast.time_text([known], {known.id: 0}, tmp_path) == "nothing to train"


def test_what_is_half_made_or_trains_nothing_measures_nothing(tmp_path: Path) -> None:
    place(tmp_path, chain(0.3, 0, "train")[0], rows=2).write_config(chain(0.3, 0, "train")[0], {})
    place(tmp_path, chain(0.3, 1, "train")[0], result={"epochs": 8, "seconds": 1.0})  # no config.json
    made(tmp_path, chain(0.3, 2, "prune")[1], 3.0)
    assert forecast.seconds_per_epoch(tmp_path) == {}
    assert forecast.seconds_per_epoch(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 min 0 s"), (59.9, "0 min 59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (90061, "25 h 1 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert forecast.duration(seconds) == text


# size


def counted(action: Callable[[], Any]) -> Counter[str]:
    """Return how many functions `action` calls, how many of them for files, and how often Hydra composes."""
    counts: Counter[str] = Counter(calls=0, files=0, compositions=0)
    composes = ConfigLoaderImpl.load_configuration.__code__

    def look(frame: Any, event: str, called: Any) -> None:
        if event in ("call", "c_call"):
            counts["calls"] += 1
        if event == "c_call" and called.__module__ in FILES:
            counts["files"] += 1
        if event == "call" and frame.f_code is composes:
            counts["compositions"] += 1

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        action()
    finally:
        sys.setprofile(before)
    return counts


def planned(hydra: Hydra, runs: Path, percents: int, seeds: int) -> list[list[str]]:
    return [
        [f"env.runs='{runs}'", "env.device=cpu", f"prune.percent={p / 1000}", f"seed={s}"]
        for p in range(percents)
        for s in range(seeds)
    ]


@pytest.mark.parametrize(("there", "sizes"), [("nothing", (40, 80)), ("everything", (20, 40))])
def test_the_work_grows_with_the_cells_and_hydra_composes_once(
    hydra: Hydra, tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str, sizes: tuple[int, int]
) -> None:
    runs = tmp_path / "runs"
    launcher = PlanLauncher()
    launcher.context, launcher.config = hydra.context, hydra.master
    found: list[Counter[str]] = []
    for percents in (1, *sizes):  # the first fills caches
        jobs = planned(hydra, runs, percents, 5)
        if there == "everything":
            for one in Sweep.of(hydra.ours(jobs), launcher.precision).steps:
                made(runs, one, 1.0)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        found.append(counted(lambda jobs=jobs: launcher.launch(jobs, 0)))  # type: ignore[misc]
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "it wrote something"
        steps = 5 + 2 * 5 * percents
        state = {"nothing": "missing", "everything": "done"}[there]
        assert f"steps: {steps} (5 train, {5 * percents} prune, {5 * percents} finetune); {steps} {state}" in (
            capsys.readouterr().out
        )
    _, small, large = found
    assert small["files"] > 0 and large["files"] <= 2.1 * small["files"]
    assert large["calls"] <= 2.1 * small["calls"]
    assert small["compositions"] == large["compositions"] == 1


def test_two_thousand_cells_are_planned_from_the_command_line(command: Command) -> None:
    percents = ",".join(f"{p / 500:g}" for p in range(400))
    done = command(f"prune.percent={percents}", "seed=0,1,2,3,4", "hydra/launcher=plan", "-m")
    assert (done.returncode, done.stderr) == (0, "")
    table, totals = done.stdout.split("\n\n")
    assert len(table.splitlines()) == 2 + 4005
    assert totals.splitlines()[:3] == [
        "cells: 2000",
        "steps: 4005 (5 train, 2000 prune, 2000 finetune); 4005 missing",
        "epochs: 10040, 10040 of them still to make; each cell alone: 26000, so sharing saves 15960 (61%)",
    ]
    assert not command.runs.exists()
