"""From what a person wants to the steps it needs, parents first; each result reads like the paper.

A new result is one function Request -> Step, entered in RESULTS under the name that `stage=` gives it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning import data
from pruning.env import Env
from pruning.errors import UserError, check_choice
from pruning.pipeline import feasible, kept
from pruning.pipeline.nodes import group
from pruning.pipeline.request import Request
from pruning.runs import Run, Step, StepState, run_of, status_of
from pruning.stages import DistillRecipe, RewindRecipe


def train(want: Request, *epochs: int) -> Step:
    """The dense network; `epochs` are those after which it is to be kept too."""
    if want.origin:
        raise UserError("resume= stands in place of training, so stage=train has nothing to do: give stage=finetune")
    return want.step("train", snapshots=[*want.env.snapshots, *epochs])


def prune(want: Request, retrained: Callable[[Step], Step] | None = None) -> Step:
    """Han et al. 2015: train, then prune; with several levels, finetune (or as `retrained`) before each further one."""
    *earlier, target = want.sparsities("prune")
    step = None if want.origin else train(want)
    for sparsity in earlier:
        pruned = want.step("prune", after=step, sparsity=sparsity)
        step = retrained(pruned) if retrained else want.step("finetune", after=pruned)
    return want.step("prune", after=step, sparsity=target)


def finetune(want: Request) -> Step:
    """Han et al. 2015: the pruned network, trained further."""
    return want.step("finetune", after=prune(want))


def lr_rewind(want: Request) -> Step:
    """Renda et al. 2020: the pruned network, trained again as long and at the rates of the dense one, at each level."""

    def retrained(pruned: Step) -> Step:
        return want.step("lr_rewind", after=pruned)

    return retrained(prune(want, retrained))


def rewind(want: Request) -> Step:
    """Frankle et al. 2020: before each training the kept weights go back to where the dense network was at an epoch."""
    if want.origin:
        raise UserError("resume= does not say how its network was trained, so stage=rewind cannot go back to that")
    inputs = {}
    recipe = want.recipe("rewind")
    if isinstance(recipe, RewindRecipe) and (epoch := recipe.epoch):
        dense = train(want, epoch)
        if epoch > dense.epochs:
            raise UserError(f"rewind.epoch={epoch}: the dense network is trained for train.epochs={dense.epochs} only")
        inputs["start"] = dense.at(epoch)

    def retrained(pruned: Step) -> Step:
        return want.step("rewind", after=pruned, inputs=inputs)

    return retrained(prune(want, retrained))


def scratch_e(want: Request) -> Step:
    """Liu et al. 2019: the pruned network of the paper above, with fresh weights, trained as long as the dense one."""
    return want.step("scratch_e", after=prune(want))


def scratch_b(want: Request) -> Step:
    """Liu et al. 2019: the same, trained longer, with the multiply-adds that the dense one took."""
    return want.step("scratch_b", after=prune(want))


def distill(want: Request) -> Step:
    """Le and Hua 2020: the last finetuning of the paper above, taught by the networks that were trained before it."""
    last = prune(want)
    recipe = want.recipe("distill")
    if not isinstance(recipe, DistillRecipe) or not recipe.weight:
        return want.step("distill", after=last)
    trained = [step for step in want.steps.values() if step.stage in ("train", "finetune")]
    kinds = {f"level {step.level}" if step.level else "dense": "levels" if step.level else "dense" for step in trained}
    teachers = {
        role: step for role, step in zip(kinds, trained, strict=True) if recipe.teachers in ("all", kinds[role])
    }
    if not teachers:
        source = "resume= stands in place of the dense network" if want.origin else "there is one level only"
        remedy = "distill.teachers=all or levels" if recipe.teachers == "dense" else "levels.count=2 or more"
        raise UserError(f"distill.teachers={recipe.teachers} finds no teacher: {source}; give {remedy}")
    return want.step("distill", after=last, inputs=teachers)


def at_init(want: Request) -> Step:
    """Lee et al. 2019: the network is pruned at its initialisation and trained once; no dense one is."""
    if want.origin:
        raise UserError("resume= is a network that was trained, so stage=at_init cannot prune it at its initialisation")
    if len(want.sparsities("prune")) > 1:
        raise UserError("stage=at_init prunes once, with no training before that; give levels=one_shot")
    return want.step("at_init", after=want.step("prune", after=want.step("init")))


PRODUCT = "finetune"  # what stage=export exports
RESULTS: dict[str, Callable[[Request], Step]] = {
    "train": train,
    "prune": prune,
    "finetune": finetune,
    "lr_rewind": lr_rewind,
    "rewind": rewind,
    "scratch_e": scratch_e,
    "scratch_b": scratch_b,
    "distill": distill,
    "at_init": at_init,
}


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
