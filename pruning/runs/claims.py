"""Never twice: a process claims a step before it makes it, and keeps the claim alive with a heartbeat.

Claims of a directory are numbered files, `claim-1`, `claim-2`, ... Number n+1 may be made only while n is released
or stale, and making it is exclusive (a hard link, which is atomic on network file systems too), so of two processes
that both find n stale only one gets n+1. Nothing is ever removed before the step is done.
"""

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.files import cannot_write, write_whole

BEAT = 10.0  # seconds between heartbeats
PATIENCE = 90.0  # seconds without a heartbeat after which the holder counts as dead


class LostClaim(RuntimeError):
    """Somebody else took the step over, because this process gave no sign of life for too long."""


@dataclass
class Claim:
    """Held from `take` to `release` or `forget`; a daemon thread gives the heartbeat."""

    path: Path
    number: int

    def __post_init__(self) -> None:
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            try:
                os.utime(self.path)
            except OSError:  # the disk may be back at the next beat
                continue

    def check(self) -> None:
        """Raise LostClaim if the step has been taken over; call it before anything is written."""
        if (self.path.parent / f"claim-{self.number + 1}").exists():
            raise LostClaim(f"{self.path.parent.name} was taken over by {describe(self.path.parent)}")

    def release(self) -> None:
        """Let others have the step, which is not done."""
        self._over.set()
        write_whole(self.path, json.dumps(identity() | {"released": True}).encode())

    def forget(self) -> None:
        """Remove all claims: the step is done, nobody will make it again."""
        self._over.set()
        for path in [*self.path.parent.glob("claim-*"), *self.path.parent.glob(".claim-*")]:
            path.unlink(missing_ok=True)


def take(folder: Path) -> Claim | None:
    """Claim `folder` (made if need be); None while another process holds it. Look again whether the step is done."""
    temporary = folder / f".claim-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(identity()))
        number = newest(folder)
        # both times are the file server's, so the clocks of the machines need not agree
        if number and not stale(folder / f"claim-{number}", now=temporary.stat().st_mtime):
            return None
        path = folder / f"claim-{number + 1}"
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError) as error:  # another was faster, or has just now forgotten its claims
        if not folder.is_dir():
            raise cannot_write(folder, error) from None
        return None
    except OSError as error:
        raise cannot_write(folder, error) from None
    finally:
        if folder.is_dir():
            temporary.unlink(missing_ok=True)
    return Claim(path, number + 1)


def newest(folder: Path) -> int:
    """Return the number of the latest claim on `folder`; 0 if there is none."""
    return max((int(path.name.removeprefix("claim-")) for path in folder.glob("claim-*")), default=0)


def held(folder: Path) -> dict[str, Any] | None:
    """Return who holds `folder` now (host, pid, job, beat: seconds since the last sign of life), or None."""
    path = folder / f"claim-{newest(folder)}"
    try:
        now = time.time()
        if stale(path, now):
            return None
        return json.loads(path.read_text()) | {"beat": now - path.stat().st_mtime}
    except (FileNotFoundError, ValueError):
        return None


def abandoned(folder: Path) -> bool:
    """Return whether the last holder of `folder` is gone without having released it."""
    path = folder / f"claim-{newest(folder)}"
    try:
        return not json.loads(path.read_text()).get("released") and stale(path, time.time())
    except FileNotFoundError:
        return False
    except ValueError:  # empty or torn: the machine crashed
        return stale(path, time.time())


def stale(path: Path, now: float) -> bool:
    """Return whether the holder is gone: it released the claim, its process has ended, or its heartbeat stopped."""
    try:
        age = now - path.stat().st_mtime
        holder = json.loads(path.read_text())
    except FileNotFoundError:
        return True
    except ValueError:  # empty or torn: the machine crashed
        return age > PATIENCE
    if holder.get("released"):
        return True
    here = identity()
    if all(holder[key] == here[key] for key in ("host", "boot", "processes")):
        return started(holder["pid"]) != holder["started"]
    return age > PATIENCE


def describe(folder: Path) -> str:
    """Return who holds `folder`, in words."""
    holder = held(folder)
    if not holder:
        return "nobody"
    job = f" (SLURM job {holder['job']})" if holder["job"] else ""
    return f"process {holder['pid']} on {holder['host']}{job}"


def identity() -> dict[str, Any]:
    """Return what tells this process from all others: also those of another boot, or of another container."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "processes": _link("/proc/self/ns/pid"),
        "pid": pid,
        "started": started(pid),
        "job": slurm_job(),
    }


def slurm_job() -> str | None:
    """Return this process's SLURM job under the name that squeue shows, like 12_3 for a task of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def started(pid: int) -> str | None:
    """Return when process `pid` started, in the kernel's ticks; None if there is none (a zombie is none)."""
    if not Path("/proc/self").exists():  # no Linux: a pid in use must do
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        return "running"
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in "ZX" else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
