"""How far steps are, read from the disk: any process can ask about any run, and add what a queue said."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from pruning.files import DamagedError
from pruning.runs import claims
from pruning.runs.run import Run
from pruning.runs.seen import JobSeen
from pruning.runs.step import Step

SKEW = 60.0  # seconds by which the clocks of SLURM and of the file server may differ


class StepState(StrEnum):
    """The words are those that people read."""

    DONE = "done"
    RUNNING = "running"
    PENDING = "pending"  # in a queue
    HELD = "held"  # in a queue, until somebody releases it
    STARTING = "starting"  # its job has a node, and has not begun with it
    CANCELLED = "cancelled"
    FAILED = "failed"
    DIED = "died"
    PARTLY_DONE = "partly done"
    WAITING = "waiting"  # for its parent
    BLOCKED = "not run"  # its parent has failed
    MISSING = "missing"
    NOT_NEEDED = "not needed"  # what would need it is done
    DAMAGED = "damaged"  # its result, or the model that belongs to it, is not what was written


LOST = (StepState.FAILED, StepState.DIED, StepState.DAMAGED, StepState.CANCELLED)
QUEUED = (StepState.PENDING, StepState.HELD, StepState.STARTING)


@dataclass(frozen=True)
class StepStatus:
    """`epoch` is how many are finished; `detail` is for people, logic reads `state` only."""

    state: StepState
    epoch: int = 0
    detail: str = ""
    log: Path | None = None  # where the reason stands, if that is not the step's own log

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


def statuses(steps: Sequence[Step], runs: Path, queue: Mapping[str, JobSeen] | None = None) -> dict[str, StepStatus]:
    """Return the status of each step by its id; what is missing and has a parent that is not done waits for it.

    `queue` has what a batch system said of the steps' jobs, by the steps' ids.
    """
    found: dict[str, StepStatus] = {}
    for step in steps:
        disk, job, parent = status_of(step, runs), (queue or {}).get(step.id), found.get(step.parent or "")
        status = with_job(disk, job, Run.for_step(step, runs)) if job else disk
        unmade = disk.state == StepState.MISSING or status.state in (*QUEUED, StepState.CANCELLED)
        if unmade and status.state != StepState.HELD and parent and parent.state != StepState.DONE:
            blocked = parent.state in (*LOST, StepState.BLOCKED)
            status = (
                StepStatus(StepState.BLOCKED, status.epoch, f"{step.parent} {failed_as(parent)}")
                if blocked
                else StepStatus(StepState.WAITING, status.epoch, f"for {step.parent}")
            )
        found[step.id] = status
    return found


def failed_as(parent: StepStatus) -> str:
    """Return in a word why nothing can start from a step."""
    return "was cancelled" if parent.state == StepState.CANCELLED else "failed"


def with_job(status: StepStatus, job: JobSeen, run: Run) -> StepStatus:
    """Return the status of a step whose job the queue knows: what is newer counts, the disk or the job."""
    if status.state in (StepState.DONE, StepState.RUNNING):
        return status
    if job.alive:  # whatever came before, it is being made again
        state = StepState.HELD if job.held else StepState.STARTING if job.begun else StepState.PENDING
        return StepStatus(state, status.epoch, str(job), job.log)
    if status.state == StepState.DAMAGED or newer(run, job):
        return status
    if job.cancelled:
        return StepStatus(StepState.CANCELLED, status.epoch, str(job), job.log)
    if status.state == StepState.DIED:
        return replace(status, detail=f"{status.detail}; {job}")
    nothing = " and left no result" if job.state == "COMPLETED" else ""
    return StepStatus(StepState.FAILED, status.epoch, f"{job}{nothing}", job.log)


def newer(run: Run, job: JobSeen) -> bool:
    """Return whether the run says of itself what happened in the job or after it: a failure, or a saved state."""
    if failure := run.failure():
        return failure["when"] >= job.since
    try:
        return bool(job.ended) and run.resume.stat().st_mtime > job.ended + SKEW
    except OSError:
        return False
