"""Who holds a directory: its claims are read whatever is in them, and whoever has made them.

`held`, `abandoned` and `describe` are for people: reading must not write, so they compare the heartbeat with the clock
of this machine. Where that is more than a minute fast, they call a distant holder dead; `claims.take` does not.
"""

import errno
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.files import READ
from pruning.processes import is_identity, lives

PATIENCE = 90.0  # seconds without a heartbeat after which the holder counts as dead
DAY = 86_400.0  # seconds; no clock is wrong by so much, so a later heartbeat is none
RELEASED = 0.0  # the time of a claim that was given back: setting it is atomic and needs no space


def newest(folder: Path) -> int:
    """Return the number of the latest claim on `folder`; 0 if there is none. OSError if it cannot be listed."""
    try:
        found = [re.fullmatch("claim-([1-9][0-9]{0,17})", path.name) for path in folder.iterdir()]
        return max((int(match[1]) for match in found if match), default=0)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def held(folder: Path) -> dict[str, Any] | None:
    """Return who holds `folder` now (host, pid, job, beat: seconds since the last sign of life), or None."""
    now = time.time()
    seen = _latest(folder)
    return None if not seen or not seen.holder or seen.stale(now) else seen.holder | {"beat": max(now - seen.beat, 0.0)}


def abandoned(folder: Path) -> bool:
    """Return whether the last holder of `folder` is gone without having released it."""
    seen = _latest(folder)
    return seen is not None and not seen.released and seen.stale(time.time())


def stale(path: Path, now: float) -> bool:
    """Return whether the holder is gone: it released the claim, its process has ended, or its heartbeat stopped."""
    seen = look(path)
    return seen is None or seen.stale(now)


def describe(folder: Path, nobody: str = "nobody") -> str:
    """Return who holds `folder`, in words."""
    holder = held(folder)
    if not holder:
        return nobody
    job = f" (SLURM job {holder['job']})" if holder.get("job") else ""
    return f"process {holder['pid']} on {holder['host']}{job}"


@dataclass(frozen=True)
class Seen:
    """What a claim's file says."""

    holder: dict[str, Any]  # empty if the file is empty or torn (the machine crashed), unreadable, or no claim at all
    beat: float  # the last heartbeat: seconds since 1970

    @property
    def released(self) -> bool:
        return self.beat == RELEASED or bool(self.holder.get("released"))  # which is how 0.1 and 0.2 wrote it

    def stale(self, now: float) -> bool:
        """Return whether the holder is gone: a process that is seen to live is not, one that cannot be seen must beat.

        Who lives may be silent: it was stopped with Ctrl-Z, or this machine slept and nothing on it could beat.
        """
        alive = lives(self.holder) if self.holder and not self.released else None
        silent = not -DAY < now - self.beat < PATIENCE
        return self.released or (silent if alive is None else not alive)


def _latest(folder: Path) -> Seen | None:
    try:
        number = newest(folder)
        return look(folder / f"claim-{number}") if number else None
    except OSError:
        return None


def look(path: Path, *, strict: bool = False) -> Seen | None:
    """Read a claim; None if it is gone. OSError only if the disk does not say, or, `strict`, the file is unreadable.

    It is opened before its time is asked: network file systems look at the server then, and not at what they remember.
    """
    try:
        try:
            descriptor = os.open(path, READ)
        except OSError as error:
            if strict or gone(error):
                raise
            return Seen({}, path.lstat().st_mtime)
        try:
            return Seen(read_holder(descriptor), os.fstat(descriptor).st_mtime)
        finally:
            os.close(descriptor)
    except OSError as error:
        if gone(error):
            return None
        raise


def read_holder(descriptor: int) -> dict[str, Any]:
    """Return the identity in an open file, or nothing if that is something else."""
    try:
        found = json.loads(os.read(descriptor, 65536))
    except (IsADirectoryError, ValueError, RecursionError):
        return {}
    return found if is_identity(found) else {}


def done(folder: Path) -> bool:
    """Return whether there is a result. OSError if the disk does not say."""
    try:
        (folder / "result.json").stat()
    except OSError as error:
        if gone(error):
            return False
        raise
    return True


def gone(error: OSError) -> bool:
    """Return whether the file is not there, as opposed to not readable."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)  # ESTALE: another machine has removed it
