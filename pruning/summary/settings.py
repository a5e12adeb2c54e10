"""What a report is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """The node `report`; nothing of it is part of an id."""

    where: Mapping[str, Any] | None = None  # only results with these settings; a list: any of these values
    by: str | None = None  # the setting that names the methods
    out: Path | None = None  # None: `report` in env.runs
    tolerance: float = setting(0.5, above=0)  # points of top-1
