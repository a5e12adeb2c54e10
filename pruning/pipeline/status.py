"""How far everything in a directory of runs is, and what failed and why, read from the disk, and without torch.

What a batch system says of the jobs is handed in, since this room knows none: a mapping of step ids to what was seen.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pruning.errors import printable
from pruning.files import DamagedError, read_bytes
from pruning.runs import LOST, Run, Step, StepState, StepStatus, every, statuses
from pruning.runs.jobs import recorded_jobs
from pruning.runs.records import recorded_sweeps
from pruning.runs.seen import JobSeen
from pruning.runs.table import text

LAST_LINES = 5  # of a failed step's log
UNASKED = "SLURM did not answer, so what is not done is shown as the disk has it: jobs may wait or run"

Queue = Mapping[str, JobSeen]


def status_text(runs: Path, queue: Queue | None = None) -> str:
    """Return what is done, running, waiting and failed, of every sweep and every single run in `runs`.

    `queue` has what was said of the jobs; None if jobs were submitted, and nobody said anything of them.
    """
    blocks, seen = [], set()
    sweeps, damaged = recorded_sweeps(runs)
    for sweep in sweeps:
        blocks.append(block(sweep.name, sweep.steps, runs, queue))
        seen |= {step.id for step in sweep.steps}
    steps, others = known(runs)
    if singles := [step for step in steps if step.id not in seen]:
        blocks.append(block("single runs", singles, runs, queue))
    if damaged or others:
        blocks.append("\n".join(["not read:", *(f"  {printable(str(error))}" for error in [*damaged, *others])]))
    return "\n\n".join(blocks) or f"nothing has been run in {runs} yet"


def known(runs: Path) -> tuple[list[Step], list[DamagedError]]:
    """Return the steps that have a directory in `runs`, parents before children, and what directories are not ours."""
    steps, others = dict[str, Step](), []
    for run in every(runs):
        try:
            if step := run.step():
                steps[step.id] = step
        except DamagedError as error:
            others.append(error)

    def place(step: Step) -> tuple[int, int, str, str]:
        before, at = set[str](), step
        while at.parent in steps and at.parent not in before:  # a damaged record may make a step its own ancestor
            before.add(at.parent)
            at = steps[at.parent]
        return step.level, len(before), step.stage, step.name

    return sorted(steps.values(), key=place), others


def block(title: str, steps: Sequence[Step], runs: Path, queue: Queue | None = None) -> str:
    """Return the status of one sweep: counts, then a line for every step that is not done."""
    found = statuses(steps, runs, queue)
    counts = Counter(status.state for status in found.values())
    lines = [
        f"{printable(title)}: {len(steps)} steps, " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    ]
    jobs = recorded_jobs(runs)
    rows = [
        (step.name, str(found[step.id]), f"job {jobs[step.id].job}" if step.id in jobs else "")
        for step in steps
        if found[step.id].state != StepState.DONE
    ]
    if rows:
        lines.append(text(rows, ("step", "state", "submitted as")))
    failed = [step for step in steps if found[step.id].state in LOST]
    lines += [lost_text(step, found[step.id], runs) for step in failed]
    return "\n".join([*lines, UNASKED] if queue is None and any(job for _, _, job in rows) else lines)


def failure_text(step: Step, error: str, runs: Path, log: Path | None = None, word: str = "failed") -> str:
    """Return what a person needs to see of a failed step: the error, the last lines of its log, and where that is.

    `log` is given if it is not the step's own.
    """
    log = log or Run.for_step(step, runs).log
    try:
        lines = read_bytes(log).decode(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    shown = [f"{word}: {step.name}: {printable(error)}", *(f"  | {printable(line)}" for line in lines)]
    return "\n".join([*shown, f"  log: {printable(str(log))}"])


def lost_text(step: Step, status: StepStatus, runs: Path) -> str:
    """As `failure_text`, of a status in LOST."""
    word = "cancelled" if status.state == StepState.CANCELLED else "failed"
    return failure_text(step, status.detail, runs, status.log, word)
