"""What several test files need to look at what runs leave, and to make them by hand."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.runs import Result, Run, every

LONG = 600.0  # seconds; a busy machine is no failure
CLOCK = ("seconds", "images_per_second")  # what differs between equal runs
CI = bool(os.environ.get("CI"))

slow = pytest.mark.slow
"""For the tier that CI=true adds: whole sweeps, every kill moment, SLURM."""


def quick(*some: str, of: Iterable[str]) -> list[Any]:
    """Return the cases of a table for `parametrize`: all but `some` are of the slow tier."""
    return [case if case in some else pytest.param(case, marks=slow) for case in of]


def by_stage(runs: Path) -> dict[str, Run]:
    """Return the runs of one chain by their stage."""
    return {run.path.name.partition("-")[0]: run for run in every(runs)}


def result(run: Run) -> Result:
    found = run.result()
    assert found, f"{run.path} is not done"
    return found


def rows(run: Run) -> list[dict[str, float]]:
    """Return the epochs less what the clock says; every line must be whole."""
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


def epochs(runs: Path, pattern: str = "*") -> int:
    """Return how many epochs are on the disk, of the runs whose directory matches `pattern`."""
    return sum(path.read_text().count("\n") for path in runs.glob(f"{pattern}/metrics.jsonl"))


def lasting(runs: Path) -> dict[str, Any]:
    """Return all that must be the same whatever happened on the way: files, bytes, figures."""
    found = {}
    for run in every(runs):
        figures = {k: v for k, v in (run.result() or {}).items() if k != "seconds"}
        files = sorted(path.name for path in run.path.iterdir())
        made = {name: (run.path / name).read_bytes() for name in files if name.endswith(".safetensors")}
        found[run.path.name] = (files, made, figures, rows(run))
    return found


def models(runs: Path) -> dict[str, bytes]:
    """Return the model of each step that is done, by the name of its directory."""
    return {run.path.name: run.model.read_bytes() for run in every(runs) if run.done}


def stamps(runs: Path) -> dict[Path, int]:
    """Return when each file was last written, less the record of what was asked for, and reports."""
    paths = (path for path in runs.rglob("*") if path.relative_to(runs).parts[0] not in (".sweeps", "report"))
    return {path: path.stat().st_mtime_ns for path in paths}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two masks or state dicts hold the same names in the same order, and the same values."""
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)
