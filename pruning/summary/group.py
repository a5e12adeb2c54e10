"""The report of a sweep as W&B gets it: read from the files, so that it is the same whenever it is sent."""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from pruning import tracking
from pruning.files import read_bytes
from pruning.pipeline.sweep import Sweep
from pruning.runs.records import recorded_sweeps
from pruning.summary.numbers import Value

CELLS = "cells.csv"


def group_report(title: str, folder: Path) -> tracking.GroupReport:
    """Return the report that lies in `folder`."""
    text = read_bytes(folder / CELLS).decode()
    rows = [{key: number(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
    return tracking.GroupReport(title, rows, sorted(folder.glob("*.png")))


def number(text: str) -> Value:
    """Return what a field of the CSV says; None where it is empty."""
    with contextlib.suppress(ValueError):
        return float(text)
    return text or None


def log_report(sweep: Sweep, folder: Path, note: Callable[[str], None]) -> None:
    """Send the report of a sweep that has ended, in the mode of its steps."""
    report = group_report(sweep.title, folder)
    tracking.log_report(report, asdict(sweep.env.wandb), sweep.env.runs / ".wandb", note)


def reports(runs: Path, folder: str) -> Iterator[tuple[tracking.GroupReport, str]]:
    """Yield the report of each recorded sweep that has one, and its group in W&B."""
    for sweep in recorded_sweeps(runs)[0]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            yield group_report(sweep.name, runs / folder / sweep.name), sweep.group or sweep.name
