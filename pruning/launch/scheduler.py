"""Which steps of a sweep are ready, running and over: what the workers take from and report to."""

import threading
from collections import deque
from collections.abc import Mapping
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
    """Hands out the steps of a sweep, each as soon as its parent is done; all changes under one lock.

    Depth first, since a cell that is finished early tells more than many begun; but a long chain is begun while there
    is other work enough for the other workers, so that all end together.
    """

    sweep: Sweep
    workers: int = 1
    cost: Mapping[str, float] = field(default_factory=dict)  # of making each step, in any unit; of others: their epochs
    ready: deque[Step] = field(default_factory=deque)
    running: dict[str, Resources] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    stopping: bool = False
    idle: float | None = None  # share of the workers' time, when it is over
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        missing = {step.id for step in self.sweep.missing()}
        self.span: dict[str, float] = {}  # of each step that is to be made, and the longest chain below it
        self.work: dict[str, float] = {}  # of it, and all below it
        for step in reversed(self.sweep.steps):
            if step.id in missing:
                own = self.cost_of(step)
                below = [child.id for child in self.sweep.children[step.id] if child.id in missing]
                self.span[step.id] = own + max((self.span[id] for id in below), default=0.0)
                self.work[step.id] = own + sum(self.work[id] for id in below)
        self.left = sum(self.cost_of(step) for step in self.sweep.steps if step.id in missing)
        self.outcomes |= {step.id: Outcome.REUSED for step in self.sweep.steps if step.id not in missing}
        for step in self.sweep.steps:
            if step.id not in self.outcomes and self.parent_done(step):
                self.ready.append(step)

    def parent_done(self, step: Step) -> bool:
        known = step.parent in self.sweep.children
        return not known or self.outcomes.get(step.parent or "") in (Outcome.DONE, Outcome.REUSED)

    def cost_of(self, step: Step) -> float:
        return self.cost.get(step.id, float(step.epochs))

    def over(self) -> bool:
        return not self.running and (self.stopping or not self.ready)

    def take(self, resources: Resources) -> Step | None:
        """Return the next step for a worker, waiting for one; None when there will be no more."""
        with self.changed:
            while not self.ready or self.stopping:
                if self.over():
                    return None
                self.changed.wait()
            step = self.next()
            self.ready.remove(step)
            self.running[step.id] = resources
            return step

    def next(self) -> Step:
        """Return the first of those that are ready, or the longest if the others would have to wait for it later."""
        longest = max(self.ready, key=lambda step: self.span[step.id])
        elsewhere = self.left - self.work[longest.id]
        return longest if elsewhere < (self.workers - 1) * self.span[longest.id] else self.ready[0]

    def settle(self, step: Step, outcome: Outcome, error: str = "") -> None:
        """Note how a step ended; make its dependants ready, or mark them as blocked."""
        with self.changed:
            del self.running[step.id]
            if outcome == Outcome.BUSY:
                self.ready.append(step)
            else:
                self.outcomes[step.id] = outcome
                self.left -= self.cost_of(step)
            if outcome == Outcome.FAILED:
                self.errors[step.id] = error
                self.block(step)
            if outcome == Outcome.DONE:
                self.ready.extendleft(reversed([c for c in self.sweep.children[step.id] if c.id not in self.outcomes]))
            self.changed.notify_all()

    def block(self, step: Step) -> None:
        for child in self.sweep.children[step.id]:
            if child.id not in self.outcomes:  # else it was there before, whatever has become of its parent
                self.outcomes[child.id] = Outcome.BLOCKED
                self.left -= self.cost_of(child)
                self.block(child)

    def stop(self) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
