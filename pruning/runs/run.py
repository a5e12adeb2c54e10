"""The directory that a step leaves: done or not, result, epochs, lineage; many runs as rows of a table."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pruning.files import read_json, write_json
from pruning.runs.step import Ref, Step, is_file


class Result(TypedDict):
    """The content of result.json, a contract: keys are added, never renamed. Accuracies in percent, losses in nats."""

    id: Ref
    stage: str
    parent: Ref | None
    dataset: str
    arch: str
    seed: int
    percent: float  # the sparsity that was asked for
    level: NotRequired[int]  # number of prunings so far; since 0.2
    sparsity: float  # measured on the mask
    test_top1: float
    test_top5: float
    test_loss: float
    val_top1: NotRequired[float]  # where dataset.val_fraction holds a part out
    val_top5: NotRequired[float]
    val_loss: NotRequired[float]
    train_loss: float | None  # of the last epoch
    params: int
    params_nonzero: int
    prunable: int
    prunable_nonzero: int
    macs: int
    macs_nonzero: int
    epochs: int
    seconds: float
    before: dict[str, float] | None  # test_top1, test_top5, test_loss right after the last pruning


@dataclass(frozen=True)
class Run:
    """The directory of a step."""

    path: Path

    @classmethod
    def for_step(cls, step: Step, runs: Path) -> "Run":
        return cls(runs / step.name)

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def resume(self) -> Path:
        return self.path / "resume.pt"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def done(self) -> bool:
        """Whether there is a result: the file's presence is "done"."""
        return (self.path / "result.json").exists()

    def result(self) -> Result | None:
        """Return the result if the step is done, else None."""
        return read_json(self.path / "result.json")

    def config(self) -> dict[str, Any] | None:
        return read_json(self.path / "config.json")

    def step(self) -> Step | None:
        """Return the step that this is the run of, as config.json has it."""
        if not (config := self.config()):
            return None
        beside = {"aside": config["aside"]} if "aside" in config else config["unhashed"]
        return Step.from_json(config["spec"] | beside)

    def failure(self) -> dict[str, Any] | None:
        """Return `error`, `traceback` and `when` of the last attempt if it failed."""
        return read_json(self.path / "failed.json")

    def write_config(self, step: Step, machine: dict[str, Any]) -> None:
        beside = {key: value for key, value in step.to_json().items() if key not in step.spec and key != "inputs"}
        write_json(
            self.path / "config.json", {"id": step.id, "spec": step.spec, "unhashed": beside, "machine": machine}
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of the epochs so far; a line torn by a crash is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def parent(self) -> "Run | None":
        """Return the run that this one started from; None for a root, a file, or if it is not here."""
        step = self.step()
        if step is None or step.parent is None or is_file(step.parent):
            return None
        return Run(self.path.parent / step.places[step.parent])


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


def results(runs: Path | str = "runs") -> list[dict[str, Any]]:
    """Return a flat row for each run in `runs` that is done, by name: `pandas.DataFrame(results())`.

    A row has the keys of result.json, with those of `before` as `before_test_top1`, ..., and `run`, the directory.
    """
    rows = []
    for run in every(Path(runs)):
        if result := run.result():
            row: dict[str, Any] = {key: value for key, value in result.items() if key != "before"}
            row |= {f"before_{key}": value for key, value in (result["before"] or {}).items()}
            rows.append(row | {"run": str(run.path)})
    return rows
