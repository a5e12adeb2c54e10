"""What a person sees of a sweep: what ended, what runs, what failed and why, read from the disk.

What a batch system says of the jobs is handed in, since this room knows none: a mapping of step ids to what was seen.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pruning import report, tracking
from pruning.errors import UserError, printable
from pruning.files import DamagedError, read_bytes
from pruning.pipeline.sweep import Sweep, differences
from pruning.runs import LOST, Run, Step, StepState, StepStatus, every, status_of, statuses
from pruning.runs.jobs import recorded_jobs
from pruning.runs.records import recorded_sweeps
from pruning.runs.seen import JobSeen
from pruning.stages import STAGES

LAST_LINES = 5  # of a failed step's log
UNASKED = "SLURM did not answer, so what is not done is shown as the disk has it: jobs may wait or run"

Queue = Mapping[str, JobSeen]


class LiveStatus:
    """Call `refresh` now and then; it shows what has changed."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.runs = sweep, sweep.env.runs
        self.open = {step.id: step for step in sweep.missing()}
        self.began, self.before = time.time(), len(sweep.steps) - len(self.open)
        self.table = tracking.live_table()

    def refresh(self, queue: Queue | None = None) -> dict[str, StepStatus]:
        """Show the sweep as it is now; return the status of the steps that are not done."""
        now = {id: status_of(step, self.runs) for id, step in self.open.items()}
        ended = [self.ended(self.open.pop(id)) for id, status in now.items() if status.state == StepState.DONE]
        running = [self.running(self.open[id], s) for id, s in now.items() if s.state == StepState.RUNNING]
        total, done = len(self.sweep.steps), len(self.sweep.steps) - len(self.open)
        others = Counter(why(job) for id, job in (queue or {}).items() if id in self.open and not job.begun)
        counts = [f"{len(running)} running", *(f"{n} {word}" for word, n in sorted(others.items()))]
        self.table.show(ended, running, f"{self.sweep.title}: {done} of {total} steps done, {', '.join(counts)}")
        return {id: status for id, status in now.items() if id in self.open}

    def ended(self, step: Step) -> str:
        result = Run.for_step(step, self.runs).result()
        assert result is not None, "only a step that is done has ended"
        place = len(self.sweep.steps) - len(self.open)
        figures = f"top-1 {result['test_top1']:.2f} % at sparsity {result['sparsity']:.3f}, {result['seconds']:.0f} s"
        return f"[{place}/{len(self.sweep.steps)}] {step.name}: {figures}"

    def running(self, step: Step, status: StepStatus) -> tuple[str, str, str]:
        rows = Run.for_step(step, self.runs).rows()
        loss, top1 = (rows[-1].get(key, math.nan) if rows else 0 for key in ("train_loss", "test_top1"))
        figures = f"loss {loss:.3f} test {top1:.2f} %" if rows else ""
        return step.name, f"epoch {status.epoch}/{step.epochs}" if step.epochs else "", figures

    def close(self) -> None:
        self.table.close()


def why(job: JobSeen) -> str:
    """Return in a word or two why a job has no node."""
    return f"pending ({job.reason})" if job.state == "PENDING" else job.state.partition(" ")[0].lower()


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


def raise_for_lost(sweep: Sweep, queue: Queue | None, remedy: str) -> None:
    """As `raise_for_failures`, of what the disk and `queue` say."""
    found = statuses(sweep.steps, sweep.env.runs, queue)
    lost = [step for step in sweep.steps if found[step.id].state in LOST]
    for step in lost:
        print(lost_text(step, found[step.id], sweep.env.runs), file=sys.stderr)
    raise_if_left(sweep, len(lost), remedy)


def raise_for_failures(sweep: Sweep, errors: Mapping[str, str], remedy: str) -> None:
    """Print the steps that failed, given with their errors by id, then raise UserError if any step is not done."""
    for step in sweep.steps:
        if step.id in errors:
            print(failure_text(step, errors[step.id], sweep.env.runs), file=sys.stderr)
    raise_if_left(sweep, len(errors), remedy)


def raise_if_left(sweep: Sweep, failed: int, remedy: str) -> None:
    """Raise UserError if any step is not done."""
    left = len(sweep.missing())
    if left:
        raise UserError(f"{left} of {len(sweep.steps)} steps are not done ({failed} failed); {remedy}")


def sweep_text(sweep: Sweep, took: float) -> str:
    """Return the table of the cells that are done, and what was made in `took` seconds."""
    results = {step.id: Run.for_step(step, sweep.env.runs).result() for step in sweep.steps}
    cells = differences(sweep.steps)
    done = [(step, result) for step in sweep.wanted if (result := results[step.id])]
    table = report.table((result, sweep.env.runs / step.name) for step, result in done)
    rows = [(cells[step.id], *row) for (step, _), row in zip(done, table, strict=True)]
    shown = report.text(rows, ("cell", *report.COLUMNS)) if done else "no cell is done"
    seconds = {id: result["seconds"] if result else 0.0 for id, result in results.items()}
    alone = sum(seconds[step.id] for chain in sweep.chains for step in chain)
    once = sum(seconds.values())
    return (
        f"\n{shown}\n\n{len(done)} of {len(sweep.wanted)} cells are done; this call took {took:.1f} s. The steps took "
        f"{once:.1f} s of worker time; each cell alone, one after the other, would take {alone:.1f} s."
    )


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
    """Return the steps that have a directory in `runs`, by stage and name, and what directories are not ours."""
    steps, others = [], []
    for run in every(runs):
        try:
            steps += [step] if (step := run.step()) else []
        except DamagedError as error:
            others.append(error)
    order = [*STAGES]

    def place(step: Step) -> tuple[int, int, str]:
        return step.level, order.index(step.stage) if step.stage in order else len(order), step.name

    return sorted(steps, key=place), others


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
        lines.append(report.text(rows, ("step", "state", "submitted as")))
    failed = [step for step in steps if found[step.id].state in LOST]
    lines += [lost_text(step, found[step.id], runs) for step in failed]
    return "\n".join([*lines, UNASKED] if queue is None and any(job for _, _, job in rows) else lines)
