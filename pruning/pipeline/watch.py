"""What a person sees of a sweep while it runs, and at its end, read from the disk."""

import math
import sys
import time
from collections import Counter
from collections.abc import Mapping

from pruning import report, tracking
from pruning.errors import UserError
from pruning.pipeline.status import Queue, failure_text, lost_text
from pruning.pipeline.sweep import Sweep, differences
from pruning.runs import LOST, Run, Step, StepState, StepStatus, status_of, statuses
from pruning.runs.seen import JobSeen


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
