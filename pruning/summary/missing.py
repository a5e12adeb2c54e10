"""What sweeps want that is not done: said, never dropped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.pipeline.sweep import Sweep, differences, flatten
from pruning.runs import LOST, Step, StepState, statuses
from pruning.runs.records import recorded_sweeps
from pruning.summary.choose import fits


def missing(runs: Path, sweep: Sweep | None, where: Mapping[str, Any] | None) -> list[str]:
    """Return a sentence on each step that is not done though `sweep`, or a recorded one, wants what comes of it.

    Of a chain that is not done its last step is named, and what failed; those of other settings than `where` are not.
    """
    sweeps, damaged = ([], []) if sweep else recorded_sweeps(runs)
    recorded = [step for each in sweeps for step in each.steps] if sweep is None else sweep.steps
    steps: dict[str, Step] = {step.id: step for step in recorded}
    found, settings = statuses([*steps.values()], runs), flatten([*steps.values()])
    telling = differences([*steps.values()])
    parents = {step.parent for step in steps.values()}
    lines = [f"not read: {error}" for error in damaged]
    for id, step in steps.items():
        named = id not in parents or found[id].state in LOST
        if named and found[id].state != StepState.DONE and fits(settings[id], where):
            detail = f" ({found[id].detail})" if found[id].detail else ""
            lines.append(f"{found[id].state}, not counted: {step.name}{detail} {telling[id]}")
    return lines
