"""Which steps of a sweep are ready, running and over: what the workers of a pool take from and report to."""

import sys
import threading
from collections import deque
from dataclasses import dataclass, field

from pruning.errors import UserError
from pruning.runs import Run, Step
from pruning.sweeps import Sweep
from pruning.training import Interrupted
from pruning.watch import failure_text


@dataclass(frozen=True)
class Slot:
    """What a worker may use: a GPU (as in CUDA_VISIBLE_DEVICES) or processor cores."""

    gpu: str | None = None
    cores: tuple[int, ...] = ()


@dataclass
class Board:
    """Which steps are ready, running and over; all changes under one lock."""

    sweep: Sweep
    ready: deque[Step] = field(default_factory=deque)
    running: dict[str, Slot] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)  # id: done, reused, failed, not run, interrupted
    errors: dict[str, str] = field(default_factory=dict)
    stopping: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        runs = self.sweep.env.runs
        for step in self.sweep.steps:
            if (Run.of(step, runs).path / "result.json").exists():
                self.outcomes[step.id] = "reused"
        for step in self.sweep.steps:
            if step.id not in self.outcomes and self.parent_done(step):
                self.ready.append(step)

    def parent_done(self, step: Step) -> bool:
        known = step.parent in self.sweep.children
        return not known or self.outcomes.get(step.parent or "") in ("done", "reused")

    def over(self) -> bool:
        return not self.running and (self.stopping or not self.ready)

    def take(self, slot: Slot) -> Step | None:
        """Return the next step for a worker, waiting for one; None when there will be no more."""
        with self.changed:
            while not self.ready or self.stopping:
                if self.over():
                    return None
                self.changed.wait()
            step = self.ready.popleft()
            self.running[step.id] = slot
            return step

    def settle(self, step: Step, outcome: str, error: str = "") -> None:
        """Take in how a step ended; make its dependants ready, or say that they will not be run."""
        with self.changed:
            del self.running[step.id]
            if outcome == "busy":
                self.ready.append(step)
            else:
                self.outcomes[step.id] = outcome
            if outcome == "failed":
                self.errors[step.id] = error
                self.block(step)
            if outcome == "done":
                # depth first: a cell that is finished early tells more than many begun
                self.ready.extendleft(reversed([c for c in self.sweep.children[step.id] if c.id not in self.outcomes]))
            self.changed.notify_all()

    def block(self, step: Step) -> None:
        for child in self.sweep.children[step.id]:
            if child.id not in self.outcomes:  # else it was there before, whatever has become of its parent
                self.outcomes[child.id] = "not run"
                self.block(child)

    def raise_for_failures(self) -> None:
        """Say what failed and was not run, then raise UserError; Interrupted if it was stopped."""
        steps, runs = {step.id: step for step in self.sweep.steps}, self.sweep.env.runs
        for id, error in self.errors.items():
            print(failure_text(steps[id], error, runs), file=sys.stderr)
        left = sum(outcome == "not run" for outcome in self.outcomes.values())
        if self.errors:
            raise UserError(
                f"{len(self.errors)} of {len(steps)} steps failed and {left} that start from them were not run; "
                "the same command makes only what is missing"
            )
        if self.stopping:
            print("stopped, with the state saved; the same command continues")
            raise Interrupted

    def stop(self) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
