"""One W&B run for the report of a sweep, beside those of its steps: a table of cells, and pictures."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pruning.errors import printable
from pruning.program import COMMAND
from pruning.tracking.guard import first_line, forget_offline, keep_in, let_go
from pruning.tracking.wandb import FINISH_TIMEOUT, INIT_TIMEOUT, mode_of

DIGEST = "report_sha256"  # in the summary: tells whether W&B has this report


@dataclass(frozen=True)
class GroupReport:
    """What a sweep ends with, as plain data: a row for each cell, and PNGs."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    pictures: Sequence[Path]

    @property
    def id(self) -> str:
        """Return the title as W&B takes it for an id."""
        return re.sub(r"[^\w.-]+", "-", self.title, flags=re.ASCII)[:100]

    @cached_property
    def digest(self) -> str:
        packed = hashlib.sha256(json.dumps([dict(row) for row in self.rows]).encode())
        for path in self.pictures:
            packed.update(path.read_bytes())
        return packed.hexdigest()


def log_report(report: GroupReport, settings: Mapping[str, Any], home: Path, note: Callable[[str], None]) -> None:
    """Send the report in the mode of the steps; a failure is a line. `settings` is the node `env.wandb`."""
    try:
        mode = mode_of(dict(settings))
        if mode != "disabled" and report.rows:
            write_report(report, settings, home, mode)
    except (Exception, SystemExit) as error:
        why = printable(first_line(error))
        note(f"W&B has not taken the report ({why}); {COMMAND} stage=sync tries again")
        let_go()


def write_report(report: GroupReport, settings: Mapping[str, Any], home: Path, mode: str) -> None:
    """Write the run of the report; what has changed since the former end of the sweep is a further step of it."""
    import wandb

    keep_in(home)
    forget_offline(home, report.id)
    run = wandb.init(
        id=report.id,
        name=report.title,
        job_type="report",
        config={"sweep": report.title},
        group=settings.get("group") or report.title,
        project=settings.get("project") or "pruning",
        entity=settings.get("entity"),
        tags=settings.get("tags"),
        mode=mode,  # type: ignore[arg-type] # a str: one that W&B does not know is its error
        resume="allow",
        dir=home,
        settings=wandb.Settings(init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT, silent=True),
    )
    if run.summary.get(DIGEST) != report.digest:
        table = wandb.Table(columns=[*report.rows[0]], data=[[*row.values()] for row in report.rows])
        run.log({"cells": table} | {path.stem: wandb.Image(str(path)) for path in report.pictures})
        run.summary.update({DIGEST: report.digest})
    run.finish(exit_code=0)
