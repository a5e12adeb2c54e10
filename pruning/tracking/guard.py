"""Trackers in general: one that does nothing, and the guard around one that may fail in any way."""

import io
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

COMPLAINT = re.compile(r"^wandb: (?:WARNING|ERROR) +(.*)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ENDING = 30  # seconds for the service of W&B to end in, after something has failed


class Tracker:
    """Takes what a step reports, and sends it nowhere."""

    def row(self, metrics: dict[str, Any]) -> None:
        """Send the figures of one epoch."""

    def finish(self, result: dict[str, Any], table: list[dict[str, Any]], picture: Path | None, model: Path) -> None:
        """Send what the step ended with: its result, per-layer sparsity, picture and model."""

    def close(self) -> None:
        """The step ends without a result."""


class BestEffort(Tracker):
    """Another tracker, whose first error is printed in one line and ends the tracking, not the run."""

    said = False  # by this process, that W&B has failed

    def __init__(self, make: Callable[[], Tracker], note: Callable[[str], None]) -> None:
        self.note, self.inner = note, Tracker()
        self.guard(lambda: setattr(self, "inner", make()))

    def guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever fails here must not fail the run
            self.inner, BestEffort.said = Tracker(), True
            self.note(f"W&B has failed, the local record goes on alone: {first_line(error)}")
            let_go()

    def row(self, metrics: dict[str, Any]) -> None:
        self.guard(lambda: self.inner.row(metrics))

    def finish(self, result: dict[str, Any], table: list[dict[str, Any]], picture: Path | None, model: Path) -> None:
        self.guard(lambda: self.inner.finish(result, table, picture, model))

    def close(self) -> None:
        self.guard(self.inner.close)


def keep_in(home: Path) -> None:
    """Have W&B keep its files in `home`, unless the user has said where: artifacts would fill the home directory."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ.setdefault(name, str(home))


def forget_offline(home: Path, id: str) -> None:
    """Remove what was written offline of a W&B run: `wandb sync` would append it to what the server has."""
    for folder in home.glob(f"wandb/offline-run-*-{id}"):
        shutil.rmtree(folder, ignore_errors=True)


def first_line(error: BaseException) -> str:
    """Return the first line of what went wrong, at most 160 characters."""
    return next(iter(str(error).split("\n")), "").strip()[:160] or type(error).__name__


def let_go() -> None:
    """End the service of W&B, by force if it does not within ENDING seconds.

    At the end of the process W&B waits for its service without a limit. One that hangs, as it may when the server has
    not answered, would keep a run that is done, or an error that was said, from ever returning.
    """
    if (wandb := sys.modules.get("wandb")) is None:
        return
    service: Any = sys.modules.get("wandb.sdk.wandb_setup")
    for name in ("_singleton", "_connection", "_proc", "_process"):  # the process has no public name
        service = getattr(service, name, None)

    def end() -> None:
        with suppress(Exception, SystemExit):
            wandb.teardown()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(ENDING)
    if ending.is_alive() and service is not None:
        service.kill()
        ending.join(ENDING)


@contextmanager
def in_one_line(note: Callable[[str], None]) -> Iterator[None]:
    """Note the first line of what W&B complains of in this block, which it would print in many."""
    with redirect_stderr(io.StringIO()) as printed:
        yield
    lines = (COMPLAINT.match(COLOUR.sub("", line)) for line in printed.getvalue().splitlines())
    if found := next(filter(None, lines), None):
        note(f"W&B: {found[1]}")
