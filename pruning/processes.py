"""Which process this is, and whether another one lives: also seen from other users, containers and machines."""

import ctypes
import os
import socket
import uuid
from pathlib import Path
from typing import Any

QUERY, DENIED, RUNS = 0x1000, 5, 259  # PROCESS_QUERY_LIMITED_INFORMATION, ERROR_ACCESS_DENIED, STILL_ACTIVE


def identity() -> dict[str, Any]:
    """Return what tells this process from all others: also those of another boot, or of another container.

    `claim` is new in each call, so that a claim is told from all others of the same process too.
    """
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "processes": _link("/proc/self/ns/pid"),
        "pid": pid,
        "started": started(pid),
        "job": slurm_job(),
        "claim": uuid.uuid4().hex,
    }


def is_identity(value: Any) -> bool:
    """Return whether `value` has the shape of an identity, as it is or as 0.1 and 0.2 wrote it."""
    if not isinstance(value, dict):
        return False
    texts = [value.get(key) for key in ("host", "boot", "processes")]
    maybe = [text for key in ("started", "job", "claim") if (text := value.get(key)) is not None]
    pid = value.get("pid")
    printable = all(isinstance(text, str) and text.isprintable() for text in [*texts, *maybe])
    return printable and type(pid) is int and 0 < pid < 2**31


def lives(holder: dict[str, Any]) -> bool | None:
    """Return whether the process with this identity lives; None if that cannot be seen from here."""
    here = identity()
    if any(holder[key] != here[key] for key in ("host", "boot", "processes")):
        return None
    now = started(holder["pid"])
    if now and holder.get("started"):
        return now == holder["started"]  # else another process has its number
    return None if now is not None else False


def started(pid: int) -> str | None:
    """Return when process `pid` started, in the kernel's ticks; None if there is none (a zombie is none).

    Empty if it exists but cannot be seen: /proc is mounted with hidepid and it is another user's, /proc is that of
    another container, or this is neither Linux nor Windows.
    """
    if os.name == "nt":
        return _started_on_windows(pid)
    if _link("/proc/self") == str(os.getpid()):
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if fields:
            return fields[19] if fields[0] not in "ZX" else None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _started_on_windows(pid: int) -> str | None:
    """Return when it started, as `started` does; `os.kill(pid, 0)` would end it there."""
    kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore] # of Windows
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel.OpenProcess(QUERY, False, pid))
    if not handle:
        denied = ctypes.get_last_error() == DENIED  # type: ignore[attr-defined,unused-ignore] # of Windows
        return "" if denied else None
    times, status = (ctypes.c_uint64 * 4)(), ctypes.c_uint32()
    each = [ctypes.byref(times, 8 * i) for i in range(4)]  # started, ended, in the kernel, in the program
    seen = kernel.GetProcessTimes(handle, *each) and kernel.GetExitCodeProcess(handle, ctypes.byref(status))
    kernel.CloseHandle(handle)
    if not seen:
        return ""
    return str(times[0]) if status.value == RUNS else None


def slurm_job() -> str | None:
    """Return this process's SLURM job under the name that squeue shows, like 12_3 for a task of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


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
