"""Which steps go into one SLURM job, and what it is called."""

from collections.abc import Iterable, Sequence

from pruning.pipeline.sweep import Sweep
from pruning.runs import Step

SHOWN = 3  # values that a name lists; of more it says the first and the last


def bundles(sweep: Sweep, open_steps: set[str], cells: int) -> list[list[Step]]:
    """Divide the steps whose ids are in `open_steps` into jobs of up to `cells` cells, parents before children.

    A step that others wait for is a job of its own, unless all that starts from it fits into the same job. Jobs that
    would wait for the same step, or for none, are put together.
    """
    tasks = [steps for task in sweep.tasks if (steps := [step for step in task if step.id in open_steps])]
    place = {step.id: i for i, task in enumerate(tasks) for step in task}
    wanted = {step.id for step in sweep.wanted}
    size = [max(1, sum(step.id in wanted for step in task)) for task in tasks]
    below: list[list[int]] = [[] for _ in tasks]
    for i, task in enumerate(tasks):
        if task[0].parent in place:
            below[place[task[0].parent]].append(i)
    whole = [True] * len(tasks)  # nothing outside waits for it
    merged: set[int] = set()
    for i in reversed(range(len(tasks))):
        total = sum(step.id in wanted for step in tasks[i]) + sum(size[k] for k in below[i])
        if below[i] and total <= cells and all(whole[k] for k in below[i]):
            tasks[i] += [step for k in below[i] for step in tasks[k]]
            size[i], merged = total, merged | set(below[i])
        else:
            whole[i] = not below[i]
    return packed(tasks, size, [i for i in range(len(tasks)) if i not in merged], whole, cells)


def packed(
    tasks: Sequence[list[Step]], size: Sequence[int], order: Iterable[int], whole: Sequence[bool], cells: int
) -> list[list[Step]]:
    """Put whole tasks that start from the same step together, as long as they hold `cells` cells at most."""
    found: list[list[Step]] = []
    room: dict[str | None, tuple[list[Step], int]] = {}  # by what it starts from: the last bundle, and what fits in
    for i in order:
        parent = tasks[i][0].parent
        bundle, free = room.get(parent, ([], 0))
        if whole[i] and size[i] <= free:
            bundle += tasks[i]
            room[parent] = bundle, free - size[i]
        else:
            found.append(tasks[i])
            if whole[i]:
                room[parent] = tasks[i], cells - size[i]
    return found


def job_name(steps: Sequence[Step]) -> str:
    """Return what tells people what these steps are: stage, dataset, network, sparsities, seeds."""

    def some(values: Iterable[str], mark: str = "") -> str:
        texts = list(dict.fromkeys(values))
        return mark + ("_".join(texts) if len(texts) <= SHOWN else f"{texts[0]}..{texts[-1]}")

    ratios = sorted({step.sparsity for step in steps if step.sparsity is not None})
    parts = [some(step.stage for step in steps), some(step.dataset["name"] for step in steps)]
    parts.append(some(step.arch["name"] for step in steps))
    parts += [some((f"{ratio:g}" for ratio in ratios), "p")] if ratios else []
    parts.append(some(map(str, sorted({step.seed for step in steps})), "s"))
    return "-".join(parts)


def ends(steps: Sequence[Step]) -> list[Step]:
    """Return the steps that no other one of these starts from."""
    parents = {step.parent for step in steps}
    return [step for step in steps if step.id not in parents]
