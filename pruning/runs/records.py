"""What was asked for, kept in `env.runs/.sweeps`: the sweeps that were started."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.errors import UserError
from pruning.files import DamagedError, read_json, write_json
from pruning.runs.provenance import code_version
from pruning.runs.step import Step
from pruning.settings import value_of

FOLDER = ".sweeps"


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as it was started: `stage=status` learns from it what is missing."""

    name: str
    when: float  # seconds since 1970
    steps: tuple[Step, ...]
    group: str | None = None  # of its runs in W&B; None: its name


def record_sweep(runs: Path, name: str, steps: Sequence[Step], wanted: Sequence[Step], env: dict[str, Any]) -> Path:
    """Write down what is wanted and with which code; return the file."""
    path = runs / FOLDER / f"{name}.json"
    about = {"name": name, "when": time.time(), "code": code_version(), "env": env}
    plain = [step.to_json() for step in steps]
    write_json(path, about | {"steps": plain, "wanted": [step.id for step in wanted]})
    return path


def recorded_sweeps(runs: Path) -> tuple[list[SweepRecord], list[DamagedError]]:
    """Return the sweeps that were started on `runs`, the oldest first, and what could not be read of them."""
    sweeps, damaged = [], []
    if os.path.lexists(runs / FOLDER) and not (runs / FOLDER).is_dir():
        damaged.append(DamagedError(runs / FOLDER, "it is no directory; delete it"))
    for path in sorted((runs / FOLDER).glob("*.json")):
        try:
            found = read_json(path) or {}
            name, when = value_of("name", found["name"], str), value_of("when", found["when"], float)
            steps = value_of("steps", found["steps"], tuple[Mapping[str, Any], ...])
            sweeps.append(SweepRecord(name, when, tuple(map(Step.from_json, steps)), _group(found)))
        except DamagedError as error:
            damaged.append(error)
        except (KeyError, UserError) as error:
            damaged.append(DamagedError(path, f"it describes no sweep ({error})"))
    return sorted(sweeps, key=lambda sweep: sweep.when), damaged


def _group(found: Any) -> str | None:
    """Return the group that the runs of a recorded sweep have in W&B."""
    for key in ("env", "wandb", "group"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None
