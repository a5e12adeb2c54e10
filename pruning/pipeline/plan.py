"""From what a person wants to the steps it needs, parents first, and which of them are missing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning import data
from pruning.env import Env
from pruning.errors import check_choice
from pruning.pipeline import feasible, kept
from pruning.pipeline.nodes import group
from pruning.pipeline.request import Request
from pruning.pipeline.results import RESULTS
from pruning.runs import Run, Step, StepState, run_of, status_of


def chain(
    config: Mapping[str, Any],
    env: Env,
    resolve: Callable[[str], str] | None = None,
    progress: data.Progress | None = None,
) -> list[Step]:
    """Return the steps that the composed `config` (plain values) asks for, the last one the wanted result.

    Everything that can be known to be wrong before any work is refused here, as a UserError of one line.
    `resolve` makes a precision of "auto"; by default for this machine. `progress` hears of images that are hashed.
    """
    result = RESULTS[check_choice("stage", group("stage", config)["name"], RESULTS)]
    want = Request.read(config, env, resolve or env.precision, progress)
    wanted = result(want)
    sizes = {step.stage: step.recipe["batch_size"] for step in want.steps.values() if "batch_size" in step.recipe}
    feasible.check(want.steps.values(), want.images, want.dataset.get("val_fraction", 0.0), sizes)
    steps = [*(step for step in want.steps.values() if step.id != wanted.id), wanted]
    if any(step.inputs for step in steps):
        kept.check(steps, missing(steps, [wanted], env.runs), env.runs, config.get("redo"))
    return steps


def graph(chains: Iterable[Sequence[Step]]) -> list[Step]:
    """Return every step of the chains once, parents before children, in the order of first need."""
    steps: dict[str, Step] = {}
    for steps_of_one in chains:
        for step in steps_of_one:
            steps[step.id] = steps[step.id].keeping(step.snapshots) if step.id in steps else step
    return list(steps.values())


def missing(steps: Sequence[Step], wanted: Iterable[Step], runs: Path) -> list[Step]:
    """Return which of `steps` have to be made for `wanted`: what is not done, and of what that needs, what is not done.

    What is done needs nothing any more, wherever its parent is now. What is damaged is among them, not what it needs:
    it will say what to do.
    """
    known, found = {step.id: step for step in steps}, set()
    todo = [step.id for step in wanted]
    while todo:
        step = known.get(todo.pop())
        if step is None or step.id in found:
            continue
        status = status_of(step, runs)
        if status.state != StepState.DONE:
            found.add(step.id)
        if status.state not in (StepState.DONE, StepState.DAMAGED):
            todo += map(run_of, step.references)
    return [step for step in steps if step.id in found]


def needed(steps: Sequence[Step], runs: Path) -> tuple[list[Step], list[str]]:
    """Return which steps of a chain are there or have to be made for its last, and a line on each that need not be."""
    todo = missing(steps, steps[-1:], runs)
    there = [step for step in steps if step not in todo and Run.for_step(step, runs).done]
    reasons = {step.name: "done before, reused" if step in there else "not needed, not made again" for step in steps}
    spared = [f"{step.name}: {reasons[step.name]}" for step in steps if step not in todo]
    return [step for step in steps if step in todo or step in there], spared
