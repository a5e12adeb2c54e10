"""What else decides a run's last bits and speed, recorded beside its config: code, libraries, device, threads."""

import hashlib
import inspect
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pruning.env import device_name

PACKAGE = Path(__file__).parents[1]
VERSION_FILE = "version.json"  # in a copy of the package: which code it is a copy of
LIBRARIES = ("torch", "torchvision", "numpy", "safetensors", "scikit-learn", "hydra-core")


def describe(device: torch.device) -> dict[str, Any]:
    """Return `code libraries device threads host` of this process."""
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


def foreign_code(functions: Iterable[Callable[..., Any]]) -> dict[str, str]:
    """Return, by module, which code the functions from outside this package are.

    That is the version of an installed distribution, else a hash of the module's source; what the module itself
    imports is not looked at.
    """
    found: dict[str, str] = {}
    for function in functions:
        while isinstance(function, partial):
            function = function.func
        module = inspect.unwrap(function).__module__
        if module.partition(".")[0] != PACKAGE.name:
            found[module] = _which(module)
    return dict(sorted(found.items()))


@cache  # once per process: what is imported stays what it is
def _which(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    for name in metadata.packages_distributions().get(module.partition(".")[0], []):
        distribution = metadata.distribution(name)
        if file and any(str(distribution.locate_file(part)) == file for part in distribution.files or []):
            return f"{name} {distribution.version}"
    return f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()}" if file else "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
