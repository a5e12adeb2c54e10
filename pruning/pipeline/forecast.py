"""What a sweep would do, before it does anything: its steps, what they wait for, what they will cost."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pruning import report
from pruning.files import DamagedError
from pruning.pipeline.redo import concerned
from pruning.pipeline.sweep import Sweep, differences
from pruning.runs import Step, StepState, StepStatus, every, statuses

COLUMNS = ("step", "settings", "state", "waits for")


def plan_text(sweep: Sweep) -> str:
    """Return the table of all steps and the totals."""
    missing, different = sweep.missing(), differences(sweep.steps)
    found, lacking = planned(sweep, missing), {step.id for step in missing}
    rows = []
    for step in sweep.steps:
        waits = step.parent if step.id in lacking and step.parent in lacking else ""
        rows.append((f"{step.stage} {step.id}", different[step.id], str(found[step.id]), waits or ""))
    anew = concerned(sweep.redo, sweep.steps, sweep.env.runs) if sweep.redo else []
    note = [f"redo={sweep.redo}: {len(anew)} runs would be moved aside first, and made anew"] if sweep.redo else []
    return "\n".join([report.text(rows, COLUMNS), "", *_totals(sweep, found, missing), *note])


def totals(sweep: Sweep) -> list[str]:
    """Return lines on steps, epochs, what sharing saves, and the time that is left."""
    return _totals(sweep, planned(sweep, missing := sweep.missing()), missing)


def _totals(sweep: Sweep, found: Mapping[str, StepStatus], missing: Sequence[Step]) -> list[str]:
    stages = Counter(step.stage for step in sweep.steps)
    left = {step.id: 0 for step in sweep.steps}
    left |= {step.id: max(0, step.epochs - found[step.id].epoch) for step in missing}
    alone = sum(step.epochs for chain in sweep.chains for step in chain)
    once = sum(step.epochs for step in sweep.steps)
    kinds = Counter(status.state for status in found.values())
    most = "at most " if any(step.may_end_sooner for step in sweep.steps) else ""
    return [
        f"cells: {len(sweep.chains)}",
        f"steps: {len(sweep.steps)} ("
        + ", ".join(f"{n} {stage}" for stage, n in stages.items())
        + "); "
        + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())),
        f"epochs: {most}{once}, {sum(left.values())} of them still to make; each cell alone: {alone}, "
        f"so sharing saves {alone - once}" + (f" ({(alone - once) / alone:.0%})" if alone else ""),
        f"time: {time_text(sweep.steps, left, sweep.env.runs)}",
    ]


def planned(sweep: Sweep, missing: Sequence[Step]) -> dict[str, StepStatus]:
    """Return the status of each step as a plan shows it: what waits, or was not run, will be made if it is needed."""
    lacking = {step.id for step in missing}
    found = statuses(sweep.steps, sweep.env.runs)
    for id, status in found.items():
        if id not in lacking and status.state != StepState.DONE:
            found[id] = StepStatus(StepState.NOT_NEEDED)
        elif status.state in (StepState.WAITING, StepState.BLOCKED):
            found[id] = StepStatus(StepState.MISSING)
    return found


def time_text(steps: Sequence[Step], left: dict[str, int], runs: Path) -> str:
    """Return the time of the epochs that are left, from the epochs measured in `runs`."""
    measured = seconds_per_epoch(runs)
    todo = [step for step in steps if left[step.id]]
    known = [step for step in todo if workload(step) in measured]
    seconds = sum(left[step.id] * measured[workload(step)] for step in known)
    if not todo:
        return "nothing to train"
    if not known:
        return "unknown, no run like these has been made here yet"
    unknown = f", and {len(todo) - len(known)} steps unlike any that was made here" if len(known) < len(todo) else ""
    return f"about {duration(seconds)} of one worker{unknown}"


def seconds_per_epoch(runs: Path) -> dict[tuple[str, ...], float]:
    """Return the median time of an epoch (training and evaluation) for each kind of work that was done in `runs`."""
    found: dict[tuple[str, ...], list[float]] = {}
    for run in every(runs):
        try:
            step, result = run.step(), run.result()
        except DamagedError:  # status shows it
            continue
        if step and result and result["epochs"]:
            found.setdefault(workload(step), []).append(result["seconds"] / result["epochs"])
    return {work: statistics.median(times) for work, times in found.items()}


def costs(steps: Sequence[Step], runs: Path) -> dict[str, float]:
    """Return the seconds that each step will take, by its id; of one unlike all that were made, as their median."""
    measured = seconds_per_epoch(runs)
    usual = statistics.median(measured.values()) if measured else 1.0
    return {step.id: step.epochs * measured.get(workload(step), usual) for step in steps}


def workload(step: Step) -> tuple[str, ...]:
    """Return what decides how long an epoch takes."""
    return step.dataset["name"], step.arch["name"], step.precision, str(step.recipe.get("batch_size"))


def duration(seconds: float) -> str:
    """Return the time in the two units that matter."""
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds % 60)} s"
