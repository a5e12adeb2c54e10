"""What `stage=` names beside results: commands that look at what is there. Each is the function `run` of a module."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pruning.commands.ways import Ways
from pruning.tracking import load_torch

__all__ = ["COMMANDS", "Ways", "find"]

LOOKING = ("status",)  # at what lies on the disk only, which needs no torch
COMMANDS = {name: f"pruning.commands.{name}" for name in ("check", "export", "report", "status", "sync")}


def find(config: Mapping[str, Any]) -> Callable[[dict[str, Any], Ways], None] | None:
    """Return the command that the config names, to be called with it and the ways; None if it names none.

    It is imported only then, and torch, which is slow to import, before it.
    """
    node = config.get("stage")
    name = node["name"] if isinstance(node, Mapping) and [*node] == ["name"] else None
    if not isinstance(name, str) or name not in COMMANDS:
        return None
    if name not in LOOKING:
        load_torch()
    return import_module(COMMANDS[name]).run
