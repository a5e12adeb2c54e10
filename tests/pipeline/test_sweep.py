import json
import os
import random
import socket
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pruning.sweeps import State, Sweep, settings, state_of, states

from pruning import claims, hosts, sweeps
from pruning.errors import UserError
from pruning.files import write_json
from pruning.runs import Env, Run, Step
from tests.test_plan import composed

STAGES = ("train", "prune", "finetune")
Cell = tuple[float, int, str]  # percent, seed, stage


def step(stage: str, parent: Step | None = None, seed: int = 0, **recipe: Any) -> Step:
    """A step as `plan.chain` makes them, on digits."""
    aside = (parent.aside if parent else {}) | ({"percent": recipe["percent"]} if "percent" in recipe else {})
    aside |= {"parent": parent.name} if parent else {}
    dataset, arch = {"name": "digits"}, {"name": "resnet20"}
    return Step(stage, recipe, dataset, arch, seed, "fp32", parent.id if parent else None, aside)


@cache
def chain(percent: float, seed: int, stage: str) -> tuple[Step, ...]:
    dense = step("train", seed=seed, epochs=8)
    pruned = step("prune", dense, seed, percent=percent)
    return (dense, pruned, step("finetune", pruned, seed, epochs=5))[: STAGES.index(stage) + 1]


def sweep_of(cells: Iterable[Cell], runs: Path = Path("runs"), name: str | None = None) -> Sweep:
    return Sweep(tuple(chain(*cell) for cell in cells), Env(runs, runs.parent / "data", "cpu"), name)


def names(tasks: Iterable[Iterable[Step]]) -> list[str]:
    return [" ".join(one.stage[0] + (f"{one.percent:g}" if one.percent else "") for one in task) for task in tasks]


def check(sweep: Sweep) -> None:
    """Hold the tasks of `sweep` to what a launcher relies on."""
    wanted, children = {one.id for one in sweep.wanted}, sweep.children
    done: set[str] = set()
    for task in sweep.tasks:
        for i, one in enumerate(task):
            assert one.id not in done, "made twice"
            assert one.parent is None or one.parent in done, "made before its parent"
            if i:
                assert one.parent == task[i - 1].id and len(children[task[i - 1].id]) == 1
                assert task[i - 1].id not in wanted
            done.add(one.id)
        # a task of its own only where somebody else waits for the parent
        parent = task[0].parent
        assert parent is None or len(children[parent]) > 1 or parent in wanted
    assert done == {one.id for chain in sweep.chains for one in chain} == {one.id for one in sweep.steps}


cells = st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.integers(0, 2), st.sampled_from(STAGES))


@given(st.lists(cells, min_size=1, max_size=30))
@example([(0.3, 0, "prune"), (0.3, 0, "finetune")])
@example([(0.3, 0, "finetune"), (0.3, 0, "train")])
def test_each_step_is_made_once_after_its_parent(wished: list[Cell]) -> None:
    sweep = sweep_of(wished)
    check(sweep)
    assert [one.id for one in sweep.wanted] == list(dict.fromkeys(chain(*cell)[-1].id for cell in wished))
    assert len(sweep.steps) == len({(p if s != "train" else 0, seed, s) for p, seed, t in wished for s in upto(t)})


def upto(stage: str) -> tuple[str, ...]:
    return STAGES[: STAGES.index(stage) + 1]


@given(st.lists(cells, min_size=1, max_size=12), st.randoms())
def test_the_id_is_that_of_the_set_of_wishes(wished: list[Cell], chance: random.Random) -> None:
    shuffled = wished * 2
    chance.shuffle(shuffled)
    assert sweep_of(wished).id == sweep_of(shuffled).id
    assert sweep_of(wished).id != sweep_of([*wished, (0.7, 7, "prune")]).id
    assert len(sweep_of(wished).id) == 9 and sweep_of(wished).title == f"sweep-{sweep_of(wished).id}"
    assert sweep_of(wished, name="night").title == f"night-{sweep_of(wished).id}"


@given(st.lists(st.integers(-1, 12), min_size=1, max_size=13), st.sets(st.integers(0, 12)))
def test_tasks_of_any_forest(parents: list[int], wishes: set[int]) -> None:
    """Chains of any depth, as iterative pruning will have them."""
    chains: list[tuple[Step, ...]] = []
    for i, parent in enumerate(parents):
        before = chains[parent] if 0 <= parent < i else ()
        chains.append((*before, step("prune", before[-1] if before else None, percent=0.01 * (i + 1))))
    chosen = [chains[i] for i in sorted(wishes) if i < len(chains)] or chains
    check(Sweep(tuple(chosen), Env()))


def test_a_shared_step_is_a_task_and_the_rest_of_each_cell_another() -> None:
    ratios = [(percent, 0, "finetune") for percent in (0.3, 0.5, 0.8)]
    assert names(sweep_of(ratios).tasks) == ["t", "p0.3 f0.3", "p0.5 f0.5", "p0.8 f0.8"]
    assert names(sweep_of(ratios[:1]).tasks) == ["t p0.3 f0.3"]
    assert names(sweep_of([(0.3, seed, "finetune") for seed in (0, 1)]).tasks) == ["t p0.3 f0.3"] * 2


def test_a_wanted_step_ends_a_task() -> None:
    both = [(0.3, 0, "prune"), (0.3, 0, "finetune")]
    assert names(sweep_of(both).tasks) == ["t p0.3", "f0.3"]
    assert names(sweep_of([(0.3, 0, "train"), (0.3, 0, "finetune")]).tasks) == ["t", "p0.3 f0.3"]


def test_a_deep_chain_is_one_task_up_to_where_it_forks() -> None:
    stem = [step("train", epochs=1)]
    for level in range(1, 6):
        stem.append(step("prune", stem[-1], percent=0.1 * level))
    forks = [(*stem, step("prune", stem[-1], percent=0.6)), (*stem, step("prune", stem[-1], percent=0.7))]
    assert [len(task) for task in Sweep(tuple(forks), Env()).tasks] == [6, 1, 1]
    assert [len(task) for task in Sweep((tuple(stem),), Env()).tasks] == [6]


def test_a_sweep_is_made_of_composed_configs() -> None:
    asked: list[tuple[str, str]] = []

    def precision(wanted: str, device: str) -> str:
        asked.append((wanted, device))
        return "bf16"

    configs = [composed(f"seed={s}", f"prune.percent={p}", "env.device=cuda") for p in (0.3, 0.5) for s in (0, 1)]
    sweep = Sweep.of(configs, precision)
    assert asked == [("auto", "cuda")]  # looked up once, not once a step
    assert [len(sweep.chains), len(sweep.steps), len(sweep.wanted)] == [4, 10, 4]
    assert {one.precision for one in sweep.steps} == {"bf16"} and sweep.env.device == "cuda"
    assert sweep.env.wandb["group"] == sweep.title == f"sweep-{sweep.id}"
    named = Sweep.of([{**config, "sweep": {"name": "night"}} for config in configs], precision)
    assert named.env.wandb["group"] == named.title == f"night-{sweep.id}"
    configs[0]["env"]["wandb"]["group"] = "mine"
    assert Sweep.of(configs[:1], precision).env.wandb["group"] == "mine"


def test_cells_in_different_places_are_refused() -> None:
    configs = [composed("env.device=cpu"), composed("env.device=cpu", "env.runs=elsewhere", "seed=1")]
    with pytest.raises(UserError, match=r"^env.runs must be the same in all cells of a sweep, got runs and elsewhere$"):
        Sweep.of(configs, lambda wanted, device: "fp32")


# states

DENSE, PRUNED, TUNED = chain(0.3, 0, "finetune")
OTHER = chain(0.5, 0, "finetune")[1:]


def place(runs: Path, one: Step, rows: int = 0, **files: Any) -> Run:
    """Make the directory of a step with `rows` epochs and `files`, e.g. `result={}` for result.json."""
    run = Run.of(one, runs)
    run.path.mkdir(parents=True, exist_ok=True)
    if rows:
        (run.path / "metrics.jsonl").write_text("".join(f'{{"epoch": {i + 1}}}\n' for i in range(rows)))
    for name, content in files.items():
        write_json(run.path / f"{name}.json", content)
    return run


def dead(run: Run) -> None:
    """Leave the claim of a process that was killed."""
    write_json(run.path / "claim-1", claims.identity() | {"pid": os.getpid(), "started": "0"})


def test_states_of_one_step(tmp_path: Path) -> None:
    assert state_of(TUNED, tmp_path) == State("missing")
    run = place(tmp_path, TUNED)
    assert state_of(TUNED, tmp_path) == State("missing")
    claim = claims.take(run.path)
    assert claim
    place(tmp_path, TUNED, rows=2)
    assert state_of(TUNED, tmp_path) == State("running", 2, f"process {os.getpid()} on {socket.gethostname()}")
    assert str(state_of(TUNED, tmp_path)).startswith("running at epoch 2: process ")
    claim.release()
    assert str(state_of(TUNED, tmp_path)) == "missing at epoch 2"  # nothing was saved
    run.resume.touch()
    assert state_of(TUNED, tmp_path) == State("partly done", 2)
    place(tmp_path, TUNED, failed={"error": "ValueError: no", "traceback": "...\nValueError: no", "when": 0.0})
    assert str(state_of(TUNED, tmp_path)) == "failed at epoch 2: ValueError: no"
    again = claims.take(run.path)
    assert again and state_of(TUNED, tmp_path).kind == "running"  # and the next attempt
    again.release()
    (run.path / "failed.json").unlink()
    again.forget()
    dead(run)
    assert state_of(TUNED, tmp_path).kind == "died" and "killed, or out of memory" in str(state_of(TUNED, tmp_path))
    place(tmp_path, TUNED, result={})
    assert state_of(TUNED, tmp_path) == State("done", 5) and str(state_of(TUNED, tmp_path)) == "done"


def test_a_claim_of_another_machine_counts_as_long_as_it_beats(tmp_path: Path) -> None:
    run = place(tmp_path, DENSE)
    write_json(run.path / "claim-1", claims.identity() | {"host": "elsewhere", "job": "12_3"})
    assert state_of(DENSE, tmp_path).detail == f"process {os.getpid()} on elsewhere (SLURM job 12_3)"
    past = time.time() - claims.PATIENCE - 5
    os.utime(run.path / "claim-1", (past, past))
    assert state_of(DENSE, tmp_path).kind == "died"


def test_a_torn_line_is_no_epoch(tmp_path: Path) -> None:
    run = place(tmp_path, DENSE, rows=3)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "train_lo')
    assert state_of(DENSE, tmp_path) == State("missing", 3)


def test_a_file_in_the_place_of_a_directory_is_no_step(tmp_path: Path) -> None:
    Run.of(DENSE, tmp_path).path.write_text("in the way")
    assert state_of(DENSE, tmp_path) == State("missing")


def kinds(tmp_path: Path, *steps: Step) -> list[str]:
    return [str(state) for state in states(steps, tmp_path).values()]


def test_steps_wait_for_what_is_not_done(tmp_path: Path) -> None:
    steps = (DENSE, PRUNED, TUNED, *OTHER)
    waiting = [f"waiting: for {one.parent}" for one in steps[1:]]
    assert kinds(tmp_path, *steps) == ["missing", *waiting]
    place(tmp_path, DENSE, rows=1).resume.touch()
    assert kinds(tmp_path, *steps) == ["partly done at epoch 1", *waiting]
    place(tmp_path, DENSE, result={})
    assert kinds(tmp_path, *steps) == ["done", "missing", waiting[1], "missing", waiting[3]]
    place(tmp_path, PRUNED, result={})
    place(tmp_path, TUNED, failed={"error": "no"})
    assert kinds(tmp_path, *steps) == ["done", "done", "failed: no", "missing", waiting[3]]
    assert kinds(tmp_path, TUNED, OTHER[1]) == ["failed: no", "missing"]  # the parent is not among these


@pytest.mark.parametrize("end", ["failed", "died"])
def test_what_starts_from_a_failure_is_not_run(tmp_path: Path, end: str) -> None:
    run = place(tmp_path, DENSE)
    write_json(run.path / "failed.json", {"error": "no"}) if end == "failed" else dead(run)
    found = states((DENSE, PRUNED, TUNED), tmp_path)
    assert [state.kind for state in found.values()] == [end, "waiting", "waiting"]
    assert [found[one.id].detail for one in (PRUNED, TUNED)] == [
        f"not run, {DENSE.id} failed",
        f"not run, {PRUNED.id} failed",
    ]


# settings, record, jobs


def test_settings_say_what_differs_within_a_stage() -> None:
    sweep = sweep_of([(p, s, "finetune") for p in (0.3, 0.5) for s in (0, 1)])
    told = settings(sweep.steps)
    assert {told[one.id] for one in sweep.steps if one.stage == "train"} == {"seed=0", "seed=1"}
    for stage in ("prune", "finetune"):
        expected = {f"seed={s} prune.percent={p}" for p in (0.3, 0.5) for s in (0, 1)}
        assert {told[one.id] for one in sweep.steps if one.stage == stage} == expected


def test_settings_of_the_only_step_of_its_stage_are_all_told() -> None:
    told = settings([DENSE, PRUNED, OTHER[0]])
    assert told[DENSE.id] == "dataset=digits arch=resnet20 seed=0 train.epochs=8"
    assert [told[PRUNED.id], told[OTHER[0].id]] == ["prune.percent=0.3", "prune.percent=0.5"]


def test_settings_that_only_some_steps_have_are_told() -> None:
    tuned = [step("finetune", PRUNED, epochs=5), step("finetune", PRUNED, epochs=5, label_smoothing=0.1)]
    assert list(settings(tuned).values()) == ["", "finetune.label_smoothing=0.1"]
    lists = [step("train", milestones=[0.3, 0.6]), step("train", milestones=[0.5], optimizer="adam")]
    assert list(settings(lists).values()) == [
        "train.milestones=[0.3, 0.6]",
        'train.milestones=[0.5] train.optimizer="adam"',
    ]


@given(st.lists(cells, min_size=1, max_size=20))
def test_settings_tell_the_steps_of_a_stage_apart(wished: list[Cell]) -> None:
    sweep = sweep_of(wished)
    told = settings(sweep.steps)
    assert len({(one.stage, told[one.id]) for one in sweep.steps}) == len(sweep.steps)


def test_what_was_recorded_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "code_version", lambda: {"commit": "c0ffee", "dirty": False})
    clock = iter([20.0, 10.0, 30.0])
    monkeypatch.setattr(sweeps.time, "time", lambda: next(clock))
    runs = tmp_path / "deep" / "runs"
    assert sweeps.recorded(runs) == []
    first, second = sweep_of([(0.3, 0, "finetune")], runs, "late"), sweep_of([(0.5, 1, "prune")], runs)
    path = first.record()
    assert path == runs / ".sweeps" / f"late-{first.id}.json" and second.record().parent == path.parent
    found = sweeps.recorded(runs)
    assert [(sweep["name"], sweep["when"]) for sweep in found] == [(second.title, 10.0), (first.title, 20.0)]
    assert found[1]["steps"] == first.steps and found[1]["wanted"] == [first.wanted[0].id]
    assert found[1]["code"] == {"commit": "c0ffee", "dirty": False} and Env.of(found[1]["env"]).runs == runs
    first.record()  # the same sweep again is the same record
    assert [sweep["when"] for sweep in sweeps.recorded(runs)] == [10.0, 30.0]


def test_the_job_that_was_submitted_last_counts(tmp_path: Path) -> None:
    assert sweeps.jobs_of(tmp_path) == {}
    folder = tmp_path / sweeps.FOLDER
    folder.mkdir()
    lines = [{"job": "7_0", "steps": ["ra", "rb"]}, {"job": "7_1", "steps": ["rc"]}, {"job": "9", "steps": ["rb"]}]
    (folder / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sweeps.jobs_of(tmp_path) == {"ra": "7_0", "rb": "9", "rc": "7_1"}
