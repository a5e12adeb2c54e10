import random
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.launch.scheduler import Outcome, Resources, Scheduler
from pruning.runs import Step
from tests.helpers import LONG
from tests.pipeline.made import STAGES, place, sweep_of

GRID = [(percent, seed, "finetune") for seed in (0, 1) for percent in (0.3, 0.6)]

cells = st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.integers(0, 1), st.sampled_from(STAGES))


def take(scheduler: Scheduler) -> Step:
    step = scheduler.take(Resources())
    assert step
    return step


def short(step: Step) -> str:
    return f"{step.stage}{step.sparsity or ''} {step.seed}"


@settings(max_examples=60, deadline=None)
@given(st.lists(cells, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_every_step_is_given_after_its_parent_unless_that_fails(
    wanted: list[tuple[float, int, str]], chance: random.Random
) -> None:
    with TemporaryDirectory() as runs:
        sweep = sweep_of(wanted, Path(runs))
        there = [step for step in sweep.steps if chance.random() < 0.2]
        for step in there:
            place(Path(runs), step, result={})
        needed, scheduler = sweep.missing(), Scheduler(sweep)
    ended, running = scheduler.outcomes, list[Step]()
    while not scheduler.over():
        if scheduler.ready and chance.random() < 0.6:
            step = take(scheduler)
            assert step.id not in ended
            assert step not in running
            assert step.parent is None or ended[step.parent] in (Outcome.DONE, Outcome.REUSED)
            running.append(step)
        elif running:
            step = running.pop(chance.randrange(len(running)))
            outcome = chance.choice([Outcome.DONE, Outcome.DONE, Outcome.FAILED, Outcome.BUSY])
            scheduler.settle(step, outcome, f"of {step.name}")
    for step in sweep.steps:
        lost = ended.get(step.parent or "") in (Outcome.FAILED, Outcome.BLOCKED)
        made = [Outcome.BLOCKED] if lost else [Outcome.DONE, Outcome.FAILED]
        made = made if step in needed else [Outcome.REUSED]
        assert ended[step.id] in made
    failed = {step.id: f"of {step.name}" for step in sweep.steps if ended[step.id] == Outcome.FAILED}
    assert scheduler.errors == failed


def test_cells_are_finished_one_after_the_other(tmp_path: Path) -> None:
    scheduler, given = Scheduler(sweep_of(GRID, tmp_path)), []
    while step := scheduler.take(Resources()):
        given.append(short(step))
        scheduler.settle(step, Outcome.DONE)
    stages = ("train", "prune0.3", "finetune0.3", "prune0.6", "finetune0.6")
    assert given == [f"{stage} {seed}" for seed in (0, 1) for stage in stages]


def test_what_another_process_makes_is_given_again_after_the_rest(tmp_path: Path) -> None:
    scheduler = Scheduler(sweep_of(GRID, tmp_path))
    scheduler.settle(take(scheduler), Outcome.BUSY)
    assert [short(step) for step in scheduler.ready] == ["train 1", "train 0"]


def test_once_it_is_stopped_nothing_is_given_and_nobody_waits(tmp_path: Path) -> None:
    scheduler, given = Scheduler(sweep_of(GRID, tmp_path)), list[Step | None]()
    step = take(scheduler)
    waiting = threading.Thread(target=lambda: given.append(scheduler.take(Resources())), daemon=True)
    scheduler.stop()
    waiting.start()
    assert not scheduler.over()  # one is still running
    scheduler.settle(step, Outcome.INTERRUPTED)
    waiting.join(LONG)
    assert given == [None]
    assert scheduler.over()


def makespan(scheduler: Scheduler, workers: int) -> tuple[float, list[float]]:
    """Return how long the sweep takes if each step takes its epochs, and when cells are finished."""
    now, busy, ended = 0.0, list[tuple[float, Step]](), list[float]()
    while not scheduler.over():
        while scheduler.ready and len(busy) < workers:
            step = take(scheduler)
            busy.append((now + step.epochs, step))
        busy.sort(key=lambda one: one[0])
        now, step = busy.pop(0)
        scheduler.settle(step, Outcome.DONE)
        ended += [now] * (step.stage == "finetune")
    return now, ended


def test_a_long_chain_is_begun_while_there_is_work_for_the_others(tmp_path: Path) -> None:
    grid = [(percent, seed, "finetune") for seed in range(3) for percent in (0.1, 0.3, 0.5, 0.7, 0.9)]
    sweep = sweep_of(grid, tmp_path)  # 3 trainings of 8 epochs, each with 5 finetunings of 5
    alone, _ = makespan(Scheduler(sweep), 1)
    assert alone == 3 * (8 + 5 * 5)
    depth_first, _ = makespan(Scheduler(sweep, 1), 2)
    together, ended = makespan(Scheduler(sweep, 2), 2)
    assert alone / 2 <= together < depth_first
    assert together <= alone / 2 + 5  # a step at most
    assert ended[:4] == [8 + 5, 8 + 5, 8 + 10, 8 + 10]  # not after the third training


@settings(max_examples=60, deadline=None)
@given(st.lists(cells, min_size=1, max_size=8, unique=True), st.integers(1, 4))
def test_no_worker_is_idle_while_a_step_is_ready_and_none_is_made_twice(
    wanted: list[tuple[float, int, str]], workers: int
) -> None:
    with TemporaryDirectory() as runs:
        scheduler = Scheduler(sweep := sweep_of(wanted, Path(runs)), workers)
    took, _ = makespan(scheduler, workers)
    whole = sum(step.epochs for step in sweep.steps)
    longest = max(sum(step.epochs for step in chain) for chain in sweep.chains)
    assert max(whole / workers, longest) <= took <= whole / workers + longest  # Graham's bound for any such order
    assert abs(scheduler.left) < 1e-9
