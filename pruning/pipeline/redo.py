"""`redo=STAGE`: finished steps are moved aside and made anew, for those who have changed the code."""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from pruning.errors import UserError, check_choice
from pruning.files import DamagedError, cannot_write
from pruning.runs import Run, Step, claims, every
from pruning.stages import STAGES

FOLDER = ".redone"  # in env.runs


def set_aside(stage: str | None, steps: Sequence[Step], runs: Path) -> list[Path]:
    """Move the finished runs of `stage` among `steps`, and every run that comes of them, to `runs/.redone`.

    What comes of them goes too, whatever command has made it, since it would belong to another parent than it says.
    Return where they are now, none if `stage` is None. UserError if one of them is being made just now.
    """
    if stage is None:
        return []
    moved = concerned(stage, steps, runs)
    for run in moved:
        if claims.held(run.path):
            raise UserError(
                f"redo={stage}: {run.path.name} is made just now by {claims.describe(run.path)}; stop that first"
            )
    folder = runs / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    try:
        for run in reversed(moved):  # children first: if this is stopped, none is left without its parent
            folder.mkdir(parents=True, exist_ok=True)
            run.path.rename(folder / run.path.name)
    except OSError as error:
        raise cannot_write(folder, error) from None
    return [folder / run.path.name for run in moved]


def announce(stage: str | None, steps: Sequence[Step], runs: Path) -> None:
    """As `set_aside`, and print what was moved."""
    for path in set_aside(stage, steps, runs):
        print(f"{path.name}: moved to {path.parent}, to be made anew", flush=True)


def concerned(stage: str, steps: Sequence[Step], runs: Path) -> list[Run]:
    """Return the runs of `stage` among `steps` that are there, and all that start from or read them, parents first."""
    check_choice("redo", stage, STAGES)
    own = [Run.for_step(step, runs) for step in steps if step.stage == stage]
    found = {run.path.name: run for run in own if run.path.is_dir()}
    children: dict[str, list[Run]] = {}
    for run in every(runs) if found else ():
        try:
            step = run.step()
        except DamagedError:  # status shows it
            continue
        for place in step.places.values() if step else ():
            children.setdefault(place, []).append(run)
    todo = list(found)
    while todo:
        for run in children.get(todo.pop(0), []):
            if run.path.name not in found:
                found[run.path.name] = run
                todo.append(run.path.name)
    return list(found.values())
