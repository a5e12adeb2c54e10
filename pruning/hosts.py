"""The machine: device, precision, threads, allocator. Where and how, never what; recorded beside each run's config."""

import ctypes
import json
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pruning.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
VERSION_FILE = "version.json"  # in a copy of this package: which code it is a copy of
LIBRARIES = ("torch", "torchvision", "numpy", "safetensors", "scikit-learn", "hydra-core")


def device(wanted: str) -> torch.device:
    """Return the device for `env.device`: auto, cpu, cuda or cuda:N."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UserError(f"env.device must be auto, cpu, cuda or cuda:N, got {wanted!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"env.device={wanted}: this machine has {torch.cuda.device_count()} CUDA devices; try env.device=auto"
        )
    return torch.device(wanted)


def precision(wanted: str, on: torch.device) -> str:
    """Resolve "auto" to "bf16" where the hardware computes in it, else "fp32"."""
    if wanted != "auto":
        return wanted
    if on.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(on) >= (8, 0) else "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags() else "fp32"


def cpu_flags() -> set[str]:
    lines = cpu_lines()
    return set(next((text.split() for key, text in lines if key in ("flags", "Features")), []))


def cpu_model() -> str:
    return next((text for key, text in cpu_lines() if key == "model name"), platform.processor() or platform.machine())


def cpu_lines() -> list[tuple[str, str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    return [(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in text.splitlines())]


def prepare(threads: int | None = None) -> None:
    """Set up this process for training: the number of threads, and an allocator that keeps large buffers.

    glibc maps and unmaps every buffer over 32 MB on each use, which costs page faults: measured 1.1 times in
    VGG-16 training and 1.95 times in its evaluation at batch 250.
    """
    if threads:
        torch.set_num_threads(threads)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
    torch.backends.cudnn.benchmark = True


def describe(on: torch.device) -> dict[str, Any]:
    """Return what else decides a run's last bits and speed: code and library versions, device, threads."""
    return {
        "code": code_version(),
        "libraries": {"python": platform.python_version()} | {name: metadata.version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else cpu_model(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
    }


@cache
def code_version() -> dict[str, Any]:
    """Return the git commit of this code and whether the tree differs from it; unknown outside a checkout."""
    here = Path(__file__).parent
    if (here / VERSION_FILE).exists():
        return json.loads((here / VERSION_FILE).read_text())
    try:
        git = ["git", "-C", str(here)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit.stdout.strip(), "dirty": bool(changes.stdout.strip())}
