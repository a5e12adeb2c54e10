"""Which steps of a sweep are ready, running and over: what the workers take from and report to."""

import threading
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from pruning.pipeline.sweep import Sweep
from pruning.runs import Step


class Outcome(StrEnum):
    """How a step ended; BUSY: another process makes it."""

    DONE = "done"
    REUSED = "reused"
    FAILED = "failed"
    BLOCKED = "not run"
    INTERRUPTED = "interrupted"
    BUSY = "busy"


@dataclass(frozen=True)
class Resources:
    """What a worker may use: a GPU (as in CUDA_VISIBLE_DEVICES) or processor cores."""

    gpu: str | None = None
    cores: tuple[int, ...] = ()


@dataclass
class Scheduler:
    """Hands out the steps of a sweep, each as soon as its parent is done; all changes under one lock."""

    sweep: Sweep
    ready: deque[Step] = field(default_factory=deque)
    running: dict[str, Resources] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    stopping: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        missing = {step.id for step in self.sweep.missing()}
        self.outcomes |= {step.id: Outcome.REUSED for step in self.sweep.steps if step.id not in missing}
        for step in self.sweep.steps:
            if step.id not in self.outcomes and self.parent_done(step):
                self.ready.append(step)

    def parent_done(self, step: Step) -> bool:
        known = step.parent in self.sweep.children
        return not known or self.outcomes.get(step.parent or "") in (Outcome.DONE, Outcome.REUSED)

    def over(self) -> bool:
        return not self.running and (self.stopping or not self.ready)

    def take(self, resources: Resources) -> Step | None:
        """Return the next step for a worker, waiting for one; None when there will be no more."""
        with self.changed:
            while not self.ready or self.stopping:
                if self.over():
                    return None
                self.changed.wait()
            step = self.ready.popleft()
            self.running[step.id] = resources
            return step

    def settle(self, step: Step, outcome: Outcome, error: str = "") -> None:
        """Note how a step ended; make its dependants ready, or mark them as blocked."""
        with self.changed:
            del self.running[step.id]
            if outcome == Outcome.BUSY:
                self.ready.append(step)
            else:
                self.outcomes[step.id] = outcome
            if outcome == Outcome.FAILED:
                self.errors[step.id] = error
                self.block(step)
            if outcome == Outcome.DONE:
                # depth first: a cell that is finished early tells more than many begun
                self.ready.extendleft(reversed([c for c in self.sweep.children[step.id] if c.id not in self.outcomes]))
            self.changed.notify_all()

    def block(self, step: Step) -> None:
        for child in self.sweep.children[step.id]:
            if child.id not in self.outcomes:  # else it was there before, whatever has become of its parent
                self.outcomes[child.id] = Outcome.BLOCKED
                self.block(child)

    def stop(self) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
