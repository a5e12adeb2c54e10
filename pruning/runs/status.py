"""How far steps are, read from the disk: any process can ask about any run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pruning.files import DamagedError
from pruning.runs import claims
from pruning.runs.run import Run
from pruning.runs.step import Step


class StepState(StrEnum):
    """The words are those that people read."""

    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    DIED = "died"
    PARTLY_DONE = "partly done"
    WAITING = "waiting"  # for its parent
    BLOCKED = "not run"  # its parent has failed
    MISSING = "missing"
    NOT_NEEDED = "not needed"  # what would need it is done
    DAMAGED = "damaged"  # its result, or the model that belongs to it, is not what was written


LOST = (StepState.FAILED, StepState.DIED, StepState.DAMAGED)


@dataclass(frozen=True)
class StepStatus:
    """`epoch` is how many are finished; `detail` is for people, logic reads `state` only."""

    state: StepState
    epoch: int = 0
    detail: str = ""

    def __str__(self) -> str:
        at = f" at epoch {self.epoch}" if self.epoch and self.state != StepState.DONE else ""
        return self.state + at + (f": {self.detail}" if self.detail else "")


def status_of(step: Step, runs: Path) -> StepStatus:
    """Read the status of a step from its directory, without regard to its parent."""
    run = Run.for_step(step, runs)
    try:
        if run.path.is_dir():
            return _of_directory(step, run)
        if os.path.lexists(run.path):
            raise DamagedError(run.path, "it is no directory; delete it")
    except DamagedError as error:
        return StepStatus(StepState.DAMAGED, detail=str(error))
    except OSError as error:
        return StepStatus(StepState.DAMAGED, detail=f"{run.path} cannot be read: {error.strerror}")
    return StepStatus(StepState.MISSING)


def _of_directory(step: Step, run: Run) -> StepStatus:
    if run.finished():
        return StepStatus(StepState.DONE, step.epochs)
    epoch = len(run.rows())
    if claims.held(run.path):
        return StepStatus(StepState.RUNNING, epoch, claims.describe(run.path))
    if failure := run.failure():
        return StepStatus(StepState.FAILED, epoch, failure["error"])
    if claims.abandoned(run.path):
        return StepStatus(StepState.DIED, epoch, "its process exited without reporting (killed, or out of memory)")
    return StepStatus(StepState.PARTLY_DONE if run.resume.exists() else StepState.MISSING, epoch)


def statuses(steps: Sequence[Step], runs: Path) -> dict[str, StepStatus]:
    """Return the status of each step by its id; what is missing and has a parent that is not done waits for it."""
    found: dict[str, StepStatus] = {}
    for step in steps:
        status = status_of(step, runs)
        parent = found.get(step.parent or "")
        if status.state == StepState.MISSING and parent and parent.state != StepState.DONE:
            blocked = parent.state in (*LOST, StepState.BLOCKED)
            status = (
                StepStatus(StepState.BLOCKED, detail=f"{step.parent} failed")
                if blocked
                else StepStatus(StepState.WAITING, detail=f"for {step.parent}")
            )
        found[step.id] = status
    return found
