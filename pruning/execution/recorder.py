"""The record of a step while it runs: rows of epochs, the state to continue from, the tracker."""

import io
import json
import time
from dataclasses import dataclass, field

import torch

from pruning import tracking
from pruning.errors import UserError
from pruning.execution.stop import StopRequest
from pruning.files import cannot_write, write_whole
from pruning.runs import Run, Step, claims
from pruning.training import ResumeState, TrainingHooks


@dataclass
class RunRecorder(TrainingHooks):
    """Keeps the record of one step in its directory, sends it to the tracker, and shows it."""

    run: Run
    step: Step
    claim: claims.Claim
    reporter: tracking.Reporter
    stop: StopRequest
    tracker: tracking.Tracker = field(default_factory=tracking.Tracker)
    began: float = field(default_factory=time.monotonic)
    earlier: float = 0.0  # seconds that former attempts took
    saved: ResumeState | None = None
    unsent: dict[str, float] | None = None

    def __post_init__(self) -> None:
        """Read what an earlier attempt has saved."""
        for temporary in self.run.path.glob(".*.*"):  # what a killed attempt was writing
            if not temporary.name.startswith(".claim-"):
                temporary.unlink(missing_ok=True)
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

    def state(self) -> ResumeState | None:
        return self.saved

    def keep_rows(self, epochs: int) -> None:
        """Drop the rows of epochs that were finished but not saved: they will be made again."""
        lines = [json.dumps(row) + "\n" for row in self.run.rows() if row["epoch"] <= epochs]
        write_whole(self.run.path / "metrics.jsonl", "".join(lines).encode())

    def elapsed(self) -> float:
        """Return the seconds that the step has taken so far, over all attempts."""
        return self.earlier + time.monotonic() - self.began

    def save(self, state: ResumeState) -> None:
        self.claim.check()
        packed = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError about positions
        torch.save(state | {"elapsed": self.elapsed()}, packed)
        write_whole(self.run.resume, packed.getbuffer())
        if self.unsent:  # only what a resumed run will not send again
            self.tracker.row(self.unsent)
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
