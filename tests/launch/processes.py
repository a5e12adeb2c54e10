"""The processes of a sweep on this machine, as seen from outside."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pruning.runs import claims, every
from tests.commands import Command, Running
from tests.helpers import LONG

WORKER = "pruning.launch.worker"


def start(command: Command, *overrides: str) -> Running:
    """Start a sweep; also where W&B has not been switched off yet, in fixtures of a whole file."""
    return command.start(*overrides, "-m", WANDB_MODE="disabled")


def holders(runs: Path) -> dict[str, int]:
    """Return which process makes which step."""
    found = {run.path.name: claims.held(run.path) for run in every(runs)}
    return {name: holder["pid"] for name, holder in found.items() if holder}


def workers(running: Running) -> list[psutil.Process]:
    """Return the worker processes of a command that are Python already."""
    try:
        return [child for child in psutil.Process(running.pid).children() if WORKER in child.cmdline()]
    except psutil.Error:
        return []


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(reached: Callable[[], Any]) -> None:
    """Wait for what other processes do."""
    end = time.monotonic() + LONG
    while not reached():
        assert time.monotonic() < end, "not reached"
        time.sleep(0.02)
