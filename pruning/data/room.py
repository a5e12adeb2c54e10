"""How much memory there is for images, on a device or of this process."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

GROUPS = Path("/sys/fs/cgroup")
SHARE = 0.5  # of what is free; the rest is for the network and its activations


def fits(size: int, device: torch.device, limit_gb: float | None = None) -> bool:
    """Whether images of `size` bytes may lie on the device whole: up to `limit_gb`, or else half of what is free."""
    return size <= (SHARE * free(device) if limit_gb is None else limit_gb * 1e9)


def free(device: torch.device) -> float:
    """Return the bytes that are free: of the GPU, or of what this process may have of the host's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([*_available(), *_of_groups()], default=float("inf"))


def _available() -> Iterator[float]:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        yield 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])


def _of_groups() -> Iterator[float]:
    """Yield what the control groups of this process, such as those of a SLURM job or a container, leave to it."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, name = line.split(":", 2)
            root, limit, usage = GROUPS, "memory.max", "memory.current"
            if "memory" in kinds.split(","):
                root, limit, usage = GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            elif kinds:
                continue
            place = root / name.lstrip("/")
            for group in (place, *(parent for parent in place.parents if parent.is_relative_to(root))):
                with suppress(OSError, ValueError):  # the outermost has no limit; "max" is none
                    yield float(int((group / limit).read_text())) - int((group / usage).read_text())
