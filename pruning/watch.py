"""Watch a sweep: what ended, what runs, what failed and why. Reads the disk only: any process can watch any sweep."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from pruning import report, tracking
from pruning.runs import Run, Step
from pruning.sweeps import State, Sweep, jobs_of, recorded, state_of, states

LAST_LINES = 5  # of a failed step's log


class Watch:
    """Call `look` now and then; it shows what has changed."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.runs = sweep, sweep.env.runs
        self.open = {step.id: step for step in sweep.steps if state_of(step, self.runs).kind != "done"}
        self.began, self.before = time.time(), len(sweep.steps) - len(self.open)
        self.table = tracking.live_table()

    def look(self) -> dict[str, State]:
        """Show the sweep as it is now; return the state of the steps that are not done."""
        now = {id: state_of(step, self.runs) for id, step in self.open.items()}
        ended = [self.ended(self.open.pop(id)) for id, state in now.items() if state.kind == "done"]
        running = [self.running(self.open[id], state) for id, state in now.items() if state.kind == "running"]
        total, done = len(self.sweep.steps), len(self.sweep.steps) - len(self.open)
        self.table.show(ended, running, f"{self.sweep.title}: {done} of {total} steps done, {len(running)} running")
        return {id: state for id, state in now.items() if id in self.open}

    def ended(self, step: Step) -> str:
        result = Run.of(step, self.runs).result() or {}
        place = len(self.sweep.steps) - len(self.open)
        figures = f"top-1 {result['test_top1']:.2f} % at sparsity {result['sparsity']:.3f}, {result['seconds']:.0f} s"
        return f"[{place}/{len(self.sweep.steps)}] {step.name}: {figures}"

    def running(self, step: Step, state: State) -> tuple[str, str, str]:
        rows = Run.of(step, self.runs).rows()
        figures = f"loss {rows[-1]['train_loss']:.3f} test {rows[-1]['test_top1']:.2f} %" if rows else ""
        return step.name, f"epoch {state.epoch}/{step.epochs}" if step.epochs else "", figures

    def close(self) -> None:
        self.table.close()


def failure_text(step: Step, error: str, runs: Path) -> str:
    """Return what a person needs to see of a failed step: the error, the last lines of its log, and where that is."""
    log = runs / step.name / "log.txt"
    try:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    return "\n".join([f"failed: {step.name}: {error}", *(f"  | {line}" for line in lines), f"  log: {log}"])


def sweep_text(sweep: Sweep, took: float) -> str:
    """Return the table of the cells that are done, and what was made in `took` seconds."""
    results = [(step, Run.of(step, sweep.env.runs).result()) for step in sweep.wanted]
    done = [(step, result) for step, result in results if result]
    places = {step.id: str(sweep.env.runs / step.name) for step, _ in done}
    shown = report.text(report.table([result for _, result in done], places)) if done else "no cell is done"
    seconds = {step.id: (Run.of(step, sweep.env.runs).result() or {}).get("seconds", 0.0) for step in sweep.steps}
    alone = sum(seconds[step.id] for chain in sweep.chains for step in chain)
    once = sum(seconds.values())
    return (
        f"\n{shown}\n\n{len(done)} of {len(sweep.wanted)} cells are done; this call took {took:.1f} s. The steps took "
        f"{once:.1f} s of worker time; each cell alone, one after the other, would take {alone:.1f} s."
    )


def status_text(runs: Path) -> str:
    """Return what is done, running, waiting and failed, of every sweep and every single run in `runs`."""
    blocks, seen = [], set()
    for sweep in recorded(runs):
        blocks.append(block(sweep["name"], sweep["steps"], runs))
        seen |= {step.id for step in sweep["steps"]}
    singles = [step for step in known(runs) if step.id not in seen]
    if singles:
        blocks.append(block("single runs", singles, runs))
    return "\n\n".join(blocks) or f"nothing has been run in {runs} yet"


def known(runs: Path) -> list[Step]:
    """Return the steps that have a directory in `runs`, as their config.json has them, by name."""
    from pruning.runs import every

    configs: list[dict[str, Any]] = [run.config() or {} for run in every(runs)]
    steps = [Step(**{k: v for k, v in c["spec"].items() if k != "version"}, aside=c["aside"]) for c in configs]
    order = {"train": 0, "prune": 1, "finetune": 2}
    return sorted(steps, key=lambda step: (order.get(step.stage, 3), step.name))


def block(title: str, steps: list[Step], runs: Path) -> str:
    """Return the status of one sweep: counts, then a line for every step that is not done."""
    found = states(steps, runs)
    counts = Counter(state.kind for state in found.values())
    lines = [f"{title}: {len(steps)} steps, " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))]
    jobs = jobs_of(runs)
    rows = [
        (step.name, str(found[step.id]), f"job {jobs[step.id]}" if step.id in jobs else "")
        for step in steps
        if found[step.id].kind != "done"
    ]
    if rows:
        lines.append(report.text(rows, ("step", "state", "submitted as")))
    failed = [step for step in steps if found[step.id].kind in ("failed", "died")]
    return "\n".join([*lines, *(failure_text(step, found[step.id].detail, runs) for step in failed)])
