"""A step and the directory that it leaves: id, name, done or not, lineage; many runs as one table.

The id is a hash of exactly what decides the result, so steps chain like commits. `aside` is what else a process
needs to know to make the step: where things lie and how to call it; it never decides a result.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from pruning.errors import UserError, one_of
from pruning.files import read_json, write_json

MODES = ("online", "offline", "disabled")
VERSION = 1  # of what a spec means: raise it when the same spec would give another result


@dataclass(frozen=True)
class Env:
    """Where and how: not part of any id."""

    runs: Path = Path("runs")
    data: Path = Path("data")
    device: str = "auto"
    threads: int | None = None
    wandb: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"runs": str(self.runs.resolve()), "data": str(self.data.resolve())}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Env":
        """Make an Env from a plain mapping; UserError for a wrong key, number of threads or mode of W&B."""
        if not isinstance(plain, dict):
            raise UserError(f"env must be a group of settings like env.runs=DIR, got {plain!r}")
        for key in plain:
            one_of("a setting of env", key, (f.name for f in fields(cls)))
        threads, mode = plain.get("threads"), (plain.get("wandb") or {}).get("mode")
        if threads is not None and (type(threads) is not int or threads < 1):
            raise UserError(f"env.threads must be a whole number >= 1, or null for all cores, got {threads!r}")
        if mode is not None:
            one_of("env.wandb.mode", mode, MODES)
        return cls(**plain | {"runs": Path(plain["runs"]).expanduser(), "data": Path(plain["data"]).expanduser()})


@dataclass(frozen=True)
class Step:
    """One stage with one recipe and one parent."""

    stage: str
    recipe: dict[str, Any]  # only what differs from neutral
    dataset: dict[str, Any]
    arch: dict[str, Any]
    seed: int
    precision: str
    parent: str | None  # the id of a step, or sha256:... of the checkpoint file that it starts from
    aside: dict[str, Any] = field(default_factory=dict)  # num_classes, percent, root, file or parent's directory

    @cached_property
    def spec(self) -> dict[str, Any]:
        """What is hashed."""
        return {"version": VERSION} | {k: v for k, v in asdict(self).items() if k != "aside"}

    @cached_property
    def id(self) -> str:
        """`r` and 12 hex digits: a bare hex id can parse as a number, like 1e5."""
        text = json.dumps(self.spec, sort_keys=True, separators=(",", ":"))
        return "r" + hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def name(self) -> str:
        """The name of the directory: readable, then the id."""
        percent = [f"p{self.percent:g}"] if self.stage != "train" else []
        return "-".join([self.stage, self.dataset["name"], self.arch["name"], *percent, f"s{self.seed}", self.id])

    @property
    def percent(self) -> float:
        """The sparsity asked for so far along the chain."""
        return self.aside.get("percent", 0.0)

    @property
    def epochs(self) -> int:
        return self.recipe.get("epochs", 0)


@dataclass(frozen=True)
class Run:
    """The directory of a step."""

    path: Path

    @classmethod
    def of(cls, step: Step, runs: Path) -> "Run":
        return cls(runs / step.name)

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def resume(self) -> Path:
        return self.path / "resume.pt"

    @property
    def id(self) -> str:
        return self.path.name.rpartition("-")[2]

    def result(self) -> dict[str, Any] | None:
        """Return the result if the step is done, else None: the file's presence is "done"."""
        return read_json(self.path / "result.json")

    def config(self) -> dict[str, Any] | None:
        return read_json(self.path / "config.json")

    def failure(self) -> dict[str, Any] | None:
        """Return `error`, `traceback` and `when` of the last attempt if it failed."""
        return read_json(self.path / "failed.json")

    def write_config(self, step: Step, machine: dict[str, Any]) -> None:
        write_json(
            self.path / "config.json", {"id": step.id, "spec": step.spec, "aside": step.aside, "machine": machine}
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of the epochs so far; a line torn by a crash is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def parent(self) -> "Run | None":
        """Return the run that this one started from; None for a root, or if it is not here."""
        name = (self.config() or {"aside": {}})["aside"].get("parent")
        return Run(self.path.parent / name) if name else None


def find(runs: Path, name: str | None) -> Run | None:
    """Return the run with this id, if its directory is in `runs`."""
    if not name or not name.startswith("r") or not name[1:].isalnum():
        return None
    return next((Run(path) for path in runs.glob(f"*-{name}")), None)


def lineage(run: Run) -> list[Run]:
    """Return the run and its ancestors, the oldest first."""
    parent = run.parent()
    return [*(lineage(parent) if parent else []), run]


def every(runs: Path) -> Iterator[Run]:
    """Yield all runs in `runs`, done or not, by name."""
    return (Run(path.parent) for path in sorted(runs.glob("*/config.json")))
