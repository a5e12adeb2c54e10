"""The record of a step while it runs: rows, the state to continue from, the mirror; and the wish to stop."""

import io
import json
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from pruning import claims, tracking
from pruning.errors import UserError
from pruning.files import cannot_write, write_whole
from pruning.runs import Run, Step
from pruning.training import Journal, State

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Stop:
    """Turns signals into a request to stop at the next batch; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        self.before = {number: signal.signal(number, self.ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, _frame: object) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@dataclass
class RunJournal(Journal):
    """Keeps the record of one step in its directory, mirrors it, and shows it."""

    run: Run
    step: Step
    claim: claims.Claim
    reporter: tracking.Reporter
    stop: Stop
    mirror: tracking.Mirror = field(default_factory=tracking.Mirror)
    began: float = field(default_factory=time.monotonic)
    earlier: float = 0.0  # seconds that former attempts took
    saved: State | None = None
    unsent: dict[str, float] | None = None

    def __post_init__(self) -> None:
        """Read what an earlier attempt has saved."""
        for aside in self.run.path.glob(".*.*"):  # what a killed attempt was writing
            if not aside.name.startswith(".claim-"):
                aside.unlink(missing_ok=True)
        try:
            self.saved = torch.load(self.run.resume, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            pass
        except Exception as error:  # a pickle can fail in any way
            raise UserError(
                f"{self.run.resume} cannot be read ({type(error).__name__}); delete it to start again"
            ) from None
        if self.saved:
            self.earlier = self.saved["elapsed"]
        self.keep_rows(self.saved["epoch"] if self.saved else 0)

    def state(self) -> State | None:
        return self.saved

    def keep_rows(self, epochs: int) -> None:
        """Drop the rows of epochs that were finished but not saved: they are made again."""
        lines = [json.dumps(row) + "\n" for row in self.run.rows() if row["epoch"] <= epochs]
        write_whole(self.run.path / "metrics.jsonl", "".join(lines).encode())

    def elapsed(self) -> float:
        return self.earlier + time.monotonic() - self.began

    def save(self, state: State) -> None:
        self.claim.check()
        packed = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError about positions
        torch.save(state | {"elapsed": self.elapsed()}, packed)
        write_whole(self.run.resume, packed.getbuffer())
        if self.unsent:  # only what a resumed run will not say again
            self.mirror.row(self.unsent)
            self.unsent = None

    def row(self, metrics: dict[str, float]) -> None:
        try:
            with (self.run.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(metrics) + "\n")
        except OSError as error:
            raise cannot_write(self.run.path / "metrics.jsonl", error) from None
        self.unsent = metrics
        self.reporter.row(metrics, self.step.epochs)

    def batch(self, images: int) -> None:
        self.reporter.batch(images)

    def stopping(self) -> bool:
        return self.stop.signal is not None
