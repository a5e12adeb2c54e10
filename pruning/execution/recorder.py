"""The record of a step while it runs: rows of epochs, the state to continue from, the tracker.

Nothing is written before the claim was checked. A process may still be stopped between the check and the write, and
wake up when another has taken the step over. So rows are appended to the file that was opened at the start of this
attempt: who takes over replaces it by another, and what comes late goes where nobody reads. And the result is never
written over one that is there.
"""

import io
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from pruning import tracking
from pruning.checkpoints import Checkpoint, snapshot
from pruning.data import Data
from pruning.env import Env
from pruning.errors import UserError
from pruning.execution.saving import Saver
from pruning.execution.stop import StopRequest
from pruning.files import cannot_write, publish, read_bytes, sha256, to_json, write_whole
from pruning.runs import Result, Run, Step, claims, snapshot_name
from pruning.runs.chain import chain_settings
from pruning.stages import chosen
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
    rows: list[dict[str, Any]] = field(default_factory=list)  # of the epochs that are finished
    unsent: dict[str, float] | None = None
    metrics: BinaryIO | None = None
    data: Data | None = None
    epochs: int = 0  # that the training makes in all
    images: int = 0  # that it has seen, over all attempts

    def __post_init__(self) -> None:
        self.saver = Saver(self.run.resume, self.claim.check)

    def begin(self, machine: dict[str, Any]) -> None:
        """Read what an earlier attempt has saved, and write down that this one has begun, on `machine`."""
        self.claim.check()
        self.run.clean()
        self.load()
        self.forget_failure()
        self.run.write_config(self.step, machine, self.claim.check)
        # epochs that were finished but not saved are made again, so their rows go; the state has all others
        path = self.run.path / "metrics.jsonl"
        # checked when the new file lies beside it: who takes over after that removes it (`clean`), and the rename fails
        write_whole(path, b"".join(map(line, self.rows)), self.claim.check)
        try:
            self.metrics = path.open("ab", buffering=0)
        except OSError as error:
            raise cannot_write(path, error) from None

    def forget_failure(self) -> None:
        """Remove what the attempt before has left."""
        path = self.run.path / "failed.json"
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from None

    def watch(self, data: Data, env: Env) -> None:
        """Show the step, which looks at `data`, and have it tracked."""
        step, images = self.step, len(data.train)
        self.data, self.epochs = data, step.epochs
        self.images = max(self.images, len(self.rows) * images)
        self.reporter.begin(step.name, step.epochs * images, self.images)
        home = env.runs / ".wandb"
        self.tracker = tracking.tracker(asdict(env.wandb), about(step, env.runs), self.rows, home, self.reporter.note)

    def load(self) -> None:
        """Read the state to continue from, if there is one."""
        try:
            content = io.BytesIO(read_bytes(self.run.resume))
            self.saved = torch.load(content, map_location="cpu", weights_only=True)
            if self.saved is not None:
                self.earlier, self.rows = float(self.saved["elapsed"]), list(self.saved["rows"])
                self.images = int(self.saved.get("images", 0))
                if [row["epoch"] for row in self.rows] != list(range(1, self.saved["epoch"] + 1)):
                    raise ValueError("epochs are missing")
        except FileNotFoundError:
            pass
        except Exception as error:  # a pickle can fail in any way
            raise UserError(
                f"{self.run.resume} cannot be read ({type(error).__name__}); delete it to start again"
            ) from None

    def state(self) -> ResumeState | None:
        return self.saved

    def length(self, epochs: int) -> None:
        if epochs != self.epochs and self.data:
            self.reporter.length(epochs * len(self.data.train))
        self.epochs = epochs

    def after(self, epoch: int, model: nn.Module) -> None:
        """Keep the network if a step is to start from it; as the state is saved after it, no kill comes between."""
        if epoch in self.step.snapshots and self.data:
            mean_std = {"mean": list(self.data.mean), "std": list(self.data.std)}
            kept = Checkpoint(snapshot(model), {}, self.step.network, len(self.data.classes), mean_std)
            kept.save(self.run.path / snapshot_name(epoch), self.claim.check)

    def snapshots(self) -> dict[str, str]:
        """Return the sha256 of each network that was kept, by its epoch."""
        paths = {str(epoch): self.run.path / snapshot_name(epoch) for epoch in self.step.snapshots}
        return {epoch: sha256(path) for epoch, path in paths.items() if path.exists()}

    def elapsed(self) -> float:
        """Return the seconds that the step has taken so far, over all attempts."""
        return self.earlier + time.monotonic() - self.began

    def save(self, state: ResumeState) -> None:
        row, self.unsent = self.unsent, None
        state = state | {"elapsed": self.elapsed(), "rows": [*self.rows], "images": self.images}
        # only what a resumed run will not send again
        self.saver.save(state, lambda: self.tracker.row(row) if row else None)

    def settle(self) -> None:
        self.saver.wait()

    def row(self, metrics: dict[str, float]) -> None:
        self.claim.check()
        assert self.metrics, "begin comes first"
        try:
            self.metrics.write(line(metrics))
            os.fsync(self.metrics.fileno())
        except OSError as error:
            raise cannot_write(self.run.path / "metrics.jsonl", error) from None
        self.rows.append(metrics)
        self.unsent = metrics
        self.reporter.row(metrics, self.epochs)

    def finish(self, result: Result) -> None:
        """Write the result: the step is done. LostClaim if another process has done it."""
        self.claim.check()
        if not publish(self.run.path / "result.json", to_json(result)):
            raise claims.LostClaim(f"{self.run.path.name} was finished by another process")

    def close(self) -> None:
        """The attempt is over, one way or another; an error that is under way is the one to show."""
        with suppress(Exception):
            self.saver.wait()
        self.tracker.close()
        if self.metrics:
            with suppress(OSError):
                self.metrics.close()

    def note(self, text: str) -> None:
        self.reporter.note(f"{self.step.name}: {text}")

    def batch(self, images: int) -> None:
        self.images += images
        self.saver.look()
        self.reporter.batch(images)

    def stopping(self) -> bool:
        return self.stop.signal is not None


def about(step: Step, runs: Path) -> dict[str, Any]:
    """Return what W&B is told of a step before it begins; its tools group by what has no dot in its name."""
    settings = chain_settings(step, runs)
    config = chosen(settings) | settings | step.spec | {"percent": step.sparsity or 0.0}
    return {"id": step.id, "name": step.name, "stage": step.stage, "config": config}


def line(row: dict[str, Any]) -> bytes:
    """Return a row as a line of metrics.jsonl."""
    return (json.dumps(row, allow_nan=False) + "\n").encode()
