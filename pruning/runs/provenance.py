"""What else decides a run's last bits and speed, recorded beside its config: code, libraries, device, threads."""

import json
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.env import device_name

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).parents[1]
VERSION_FILE = "version.json"  # in a copy of the package: which code it is a copy of
LIBRARIES = ("torch", "torchvision", "numpy", "safetensors", "scikit-learn", "hydra-core")


def describe(device: "torch.device") -> dict[str, Any]:
    """Return `code libraries device threads host` of this process."""
    import torch

    return {
        "code": code_version(),
        "libraries": {"python": platform.python_version()} | {name: metadata.version(name) for name in LIBRARIES},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
    }


@cache
def code_version() -> dict[str, Any]:
    """Return the git commit of this code and whether the tree differs from it; unknown outside a checkout."""
    if (PACKAGE / VERSION_FILE).exists():
        return json.loads((PACKAGE / VERSION_FILE).read_text())
    try:
        _git("ls-files", "--error-unmatch", "errors.py")  # else it is installed somewhere in another repository
        return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
