from pathlib import Path

from pruning.env import Env
from pruning.pipeline import forecast
from pruning.pipeline.sweep import Sweep
from pruning.runs import Step
from tests.commands import Command
from tests.helpers import slow
from tests.pipeline.made import chain, place, step, sweep_of

RATIOS = (0.3, 0.5, 0.7, 0.8, 0.9)
DENSE, PRUNED, TUNED = chain(0.3, 0, "finetune")


def grid(runs: Path) -> Sweep:
    return sweep_of([(percent, seed, "finetune") for percent in RATIOS for seed in (0, 1, 2)], runs)


def made(runs: Path, one: Step, seconds: float) -> None:
    run = place(runs, one, rows=one.epochs, result={"epochs": one.epochs, "seconds": seconds})
    run.write_config(one, {})


@slow
def test_totals_are_the_same_from_a_sweep_and_from_the_command_line(command: Command) -> None:
    totals = forecast.totals(grid(command.runs))
    assert totals == [
        "cells: 15",
        "steps: 33 (3 train, 15 prune, 15 finetune); 33 missing",
        "epochs: 99, 99 of them still to make; each cell alone: 195, so sharing saves 96 (49%)",
        "time: unknown, no run like these has been made here yet",
    ]
    done = command("prune.percent=0.3,0.5,0.7,0.8,0.9", "seed=range(0,3)", "hydra/launcher=plan", "-m")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-4:] == totals
    assert not command.runs.exists()


@slow
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


def test_a_sweep_without_training_is_planned_too(tmp_path: Path) -> None:
    _, _, epochs, took = forecast.totals(Sweep(((PRUNED,),), Env(runs=tmp_path)))
    assert epochs == "epochs: 0, 0 of them still to make; each cell alone: 0, so sharing saves 0"
    assert took == "time: nothing to train"


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    sweep = grid(tmp_path)
    for one in (DENSE, PRUNED, TUNED):
        made(tmp_path, one, one.epochs * 2.0)
    place(tmp_path, chain(0.3, 1, "train")[0], rows=3).resume.touch()
    place(tmp_path, chain(0.3, 2, "train")[0], failed={"error": "no"})
    _, steps, epochs, took = forecast.totals(sweep)
    assert steps.partition("; ")[2] == "3 done, 1 failed, 28 missing, 1 partly done"
    assert epochs.startswith("epochs: 99, 83 of them still to make; ")
    assert took == "time: about 2 min 46 s of one worker"


def test_the_table_says_what_each_step_is_and_waits_for(tmp_path: Path) -> None:
    sweep = sweep_of([(0.3, 0, "finetune"), (0.5, 0, "prune")], tmp_path)
    other = chain(0.5, 0, "prune")[1]

    def table() -> list[list[str]]:
        return [line.split() for line in forecast.plan_text(sweep).split("\n\n")[0].splitlines()[2:]]

    common = ["dataset=digits", "arch=resnet20", "seed=0"]
    assert table() == [
        ["train", DENSE.id, *common, "train.epochs=8", "train.precision=fp32", "missing"],
        ["prune", PRUNED.id, "prune.percent=0.3", "missing", DENSE.id],
        ["finetune", TUNED.id, *common, "finetune.epochs=5", "finetune.precision=fp32", "missing", PRUNED.id],
        ["prune", other.id, "prune.percent=0.5", "missing", DENSE.id],
    ]
    made(tmp_path, DENSE, 1)
    place(tmp_path, PRUNED, failed={"error": "ValueError: no"})
    states = [["train.precision=fp32", "done"], ["ValueError:", "no"], ["missing", PRUNED.id]]
    assert [row[-2:] for row in table()] == [*states, ["prune.percent=0.5", "missing"]]


def test_the_time_is_the_median_of_what_was_measured(tmp_path: Path) -> None:
    for seed, seconds in ((7, 10.0), (8, 20.0), (9, 90.0)):  # of 5 epochs
        made(tmp_path, step("finetune", chain(0.3, seed, "prune")[-1], seed, epochs=5), seconds)
    sweep = sweep_of([(0.3, 0, "finetune"), (0.5, 0, "finetune")], tmp_path)
    found = forecast.time_text(sweep.steps, {one.id: one.epochs for one in sweep.steps}, tmp_path)
    assert found == "about 1 min 12 s of one worker"


def test_kinds_of_work_are_kept_apart(tmp_path: Path) -> None:
    known, slower = step("train", epochs=10, batch_size=32), step("train", epochs=10, batch_size=8)
    made(tmp_path, step("train", seed=5, epochs=2, batch_size=32), 6.0)
    assert forecast.seconds_per_epoch(tmp_path) == {("digits", "resnet20", "fp32", "32"): 3.0}
    left = {known.id: 10, slower.id: 10}
    unlike = "about 0 min 30 s of one worker, and 1 steps unlike any that was made here"
    assert forecast.time_text([known, slower], left, tmp_path) == unlike
    assert forecast.time_text([slower], left, tmp_path) == "unknown, no run like these has been made here yet"
    assert forecast.time_text([known], left | {known.id: 4}, tmp_path) == "about 0 min 12 s of one worker"


def test_what_is_half_made_or_trains_nothing_measures_nothing(tmp_path: Path) -> None:
    place(tmp_path, DENSE, rows=2).write_config(DENSE, {})
    place(tmp_path, chain(0.3, 1, "train")[0], result={"epochs": 8, "seconds": 1.0})  # no config.json
    made(tmp_path, PRUNED, 3.0)
    assert forecast.seconds_per_epoch(tmp_path) == {} == forecast.seconds_per_epoch(tmp_path / "nowhere")


def test_durations() -> None:
    texts = {0: "0 min 0 s", 59.9: "0 min 59 s", 60: "1 min 0 s", 3599: "59 min 59 s", 90061: "25 h 1 min"}
    assert {seconds: forecast.duration(seconds) for seconds in texts} == texts
