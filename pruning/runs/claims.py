"""Never twice: a process claims a step before it makes it, and keeps the claim alive with a heartbeat.

Claims of a directory are numbered files, `claim-1`, `claim-2`, ... Number n+1 may be made only while n is released
or stale, and making it is exclusive (a hard link, which is atomic on network file systems too), so of two processes
that both find n stale only one gets n+1. Only the latest claim counts: whoever finds a later one than its own, or its
own gone, or a result, has lost the step. Nothing is removed before the step is done.

The promise: no two results, and no epoch twice. `Claim.check` alone cannot keep it, since a process may be stopped for
hours between its check and what it does next. So `result.json` is published by a hard link too, and rows are appended
to a file that was opened at the start of the attempt, while who takes over replaces that file: what comes late fails,
or goes where nobody reads.

All ages are differences of two times of the file server, so the clocks of machines need not agree. Network file systems
may cache attributes for less than PATIENCE - BEAT, as they do unless told otherwise.
"""

import contextlib
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.files import READ, CannotWriteError, cannot_write
from pruning.processes import identity, slurm_job, started
from pruning.runs.holders import (
    PATIENCE,
    RELEASED,
    abandoned,
    describe,
    done,
    gone,
    held,
    look,
    newest,
    read_holder,
    stale,
)

__all__ = [
    "BEAT", "PATIENCE", "Claim", "LostClaim", "abandoned", "clear", "describe", "held", "identity", "newest",
    "slurm_job", "stale", "started", "take",
]  # fmt: skip

BEAT = 10.0  # seconds between heartbeats
BY_DESCRIPTOR = os.utime in os.supports_fd  # not on Windows; a path may be another claim's by the time that it is used


class LostClaim(RuntimeError):
    """Somebody else took the step over, because this process gave no sign of life for too long."""


@dataclass
class Claim:
    """Held from `take` to `release` or `forget`; a daemon thread gives the heartbeat."""

    path: Path
    number: int
    token: str  # what the file must say to be this claim, and not another one under its name

    def __post_init__(self) -> None:
        self._over, self._lock = threading.Event(), threading.Lock()
        threading.Thread(target=self._live, daemon=True, name="heartbeat").start()

    def _live(self) -> None:
        while not self._over.wait(BEAT):
            with self._lock, contextlib.suppress(OSError):  # the disk may be back at the next beat
                if not self._over.is_set():
                    self._set_time(None)
        while not self._given_back():
            time.sleep(BEAT)

    def _set_time(self, seconds: float | None) -> bool:
        """Set the file's time, None for the server's now; False if the file is gone, or another claim's by now."""
        try:
            descriptor = os.open(self.path, READ)
        except OSError as error:
            if gone(error):
                return False
            raise
        try:
            if ours := read_holder(descriptor).get("claim") == self.token:
                os.utime(descriptor if BY_DESCRIPTOR else self.path, None if seconds is None else (seconds, seconds))
        finally:
            os.close(descriptor)
        return ours

    def _given_back(self) -> bool:
        """Give the claim back; False if the disk refuses. In a finished directory it leaves nothing."""
        try:
            with self._lock:
                if self._set_time(RELEASED) and done(self.path.parent):
                    self.path.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def overtaken(self) -> bool:
        """Return whether the claim is gone or no longer the latest. OSError if the disk does not say."""
        seen = look(self.path, strict=True)
        return seen is None or seen.holder.get("claim") != self.token or newest(self.path.parent) > self.number

    def check(self) -> None:
        """Raise LostClaim unless the step is still this claim's and not done; call it before anything is written.

        UserError if the disk does not say.
        """
        folder = self.path.parent
        try:
            # the result last: it stays, so claims that are forgotten meanwhile cannot hide who took them
            lost, finished = self.overtaken(), done(folder)
        except OSError as error:
            raise cannot_write(folder, error) from None
        if finished:
            raise LostClaim(f"{folder.name} was finished by another process")
        if lost:
            raise LostClaim(f"{folder.name} was taken over by {describe(folder, 'another process')}")

    def lost(self) -> bool:
        """Return whether `check` would raise LostClaim; False if the disk does not say: its own error says more."""
        try:
            self.check()
        except LostClaim:
            return True
        except CannotWriteError:
            pass
        return False

    def release(self) -> None:
        """Let others have the step, if it is still this claim's. No error: a refusing disk is asked at each beat."""
        self._over.set()
        self._given_back()

    def forget(self) -> None:
        """Remove all claims: the step is done, nobody will make it again."""
        self._over.set()
        clear(self.path.parent)


def take(folder: Path) -> Claim | None:
    """Claim `folder` (made if need be); None while another process holds it. Look again whether the step is done."""
    holder = identity()
    aside = folder / f".claim-{holder['claim'][:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        now = _write(aside, holder)
        number = newest(folder)
        if number and not stale(folder / f"claim-{number}", now):
            return None
        path = folder / f"claim-{number + 1}"
        if not _linked(aside, path, holder["claim"]):
            return None
        return _confirmed(Claim(path, number + 1, holder["claim"]))
    except FileNotFoundError as error:  # another has just now forgotten its claims
        if not folder.is_dir():
            raise cannot_write(folder, error) from None
        return None
    except OSError as error:
        raise cannot_write(folder, error) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _confirmed(claim: Claim) -> Claim | None:
    """Return the claim, unless others have gone on while this process slept; what is not returned is given back."""
    ours = False
    try:
        ours = not claim.overtaken()
    finally:  # also where the disk does not say: nobody would stop the heartbeat
        if not ours:
            claim.release()
    return claim if ours else None


def _linked(aside: Path, path: Path, token: str) -> bool:
    """Make `path` from `aside`, unless another was faster."""
    try:
        os.link(aside, path)
    except FileExistsError:  # perhaps it is ours: a network can lose the answer to a link, and ask again
        return aside.samefile(path)
    except OSError:
        Claim(path, 0, token).release()  # it may have been made all the same
        raise
    _sync(path.parent)
    return True


def clear(folder: Path) -> None:
    """Remove all claims on `folder`, whose step is done; what the disk refuses is left."""
    with contextlib.suppress(OSError):
        for path in [*folder.glob("claim-*"), *folder.glob(".claim-*")]:
            with contextlib.suppress(OSError):
                path.unlink()


def _write(path: Path, holder: dict[str, Any]) -> float:
    """Write a claim that no crash can tear once it is linked; return the file server's time."""
    with path.open("x") as file:
        file.write(json.dumps(holder))
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_mtime


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not all file systems can; then the claim is as safe as a result
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
