"""The directory that a step leaves: done or not, result, epochs, lineage."""

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pruning.errors import UserError
from pruning.files import DamagedError, read_json, read_lines, sha256, write_json
from pruning.runs import claims
from pruning.runs.result import Result
from pruning.runs.step import Step, is_file, kinds_of, snapshot_name
from pruning.settings import value_of

BEFORE = ("test_top1", "test_top5", "test_loss")
SPARED = ("inputs", "code")  # left out of the spec where they are empty


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
    def picture(self) -> Path:
        return self.path / "picture.png"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def done(self) -> bool:
        """Whether there is a whole result with its model."""
        try:
            return self.finished() is not None
        except DamagedError:
            return False

    def result(self) -> Result | None:
        """Return the figures if the step is done, else None; DamagedError if the file is not what was written."""
        path = self.path / "result.json"
        if (found := read_json(path)) is None:
            return None
        kinds = kinds_of(Result)
        try:
            values = {key: value_of(key, value, kinds[key]) if key in kinds else value for key, value in found.items()}
            for key in Result.__required_keys__:
                values[key]
            if before := values["before"]:
                values["before"] = {key: value_of(f"before.{key}", before.get(key), float) for key in BEFORE}
        except (KeyError, UserError) as error:
            raise DamagedError(path, f"{error}; delete {self.path} to make it again") from None
        if not self.path.name.endswith(f"-{values['id']}"):
            raise DamagedError(path, f"it is of {values['id']}; delete {self.path} to make it again")
        return cast("Result", values)

    def finished(self) -> Result | None:
        """Return the result of a step that is done, None if it is not.

        DamagedError, with what to delete, if result or model are not what was written. The model's bytes are looked at
        only if they were touched after the result was written: a training that starts from them checks them anyway.
        """
        if (result := self.result()) is None:
            return None
        reason = "the step is done, but this file"
        try:
            status, wanted = self.model.stat(), result.get("model_sha256")
            touched = status.st_mtime_ns > (self.path / "result.json").stat().st_mtime_ns
            if stat.S_ISREG(status.st_mode) and (not (touched and wanted) or sha256(self.model) == wanted):
                return result
            reason += " is not the one that it made"
        except FileNotFoundError:
            reason += " is missing"
        except OSError as error:
            reason += f" cannot be read ({error.strerror})"
        raise DamagedError(self.model, f"{reason}; delete {self.path} to make it again")

    def digest(self, path: Path, result: Result) -> str | None:
        """Return the sha256 that a network of this run had when it was written; None if that was not written down.

        `path` is the model, or a snapshot; DamagedError for one that the run has not kept.
        """
        if path == self.model:
            return result.get("model_sha256")
        for epoch, digest in result.get("snapshots", {}).items():
            if path.name == snapshot_name(epoch):
                return digest
        raise DamagedError(path, "the run was made without it")

    def config(self) -> dict[str, Any] | None:
        return read_json(self.path / "config.json")

    def step(self) -> Step | None:
        """Return the step that this is the run of, as config.json has it; DamagedError if that is not ours."""
        if (config := self.config()) is None:
            return None
        try:
            beside = {"aside": config["aside"]} if "aside" in config else config["unhashed"]
            return Step.from_json(config["spec"] | beside)
        except (KeyError, TypeError, UserError) as error:
            raise DamagedError(self.path / "config.json", f"it describes no step ({error})") from None

    def failure(self) -> dict[str, Any] | None:
        """Return `error`, `traceback` and `when` of the last attempt if it failed."""
        try:
            found = read_json(self.path / "failed.json")
        except DamagedError as error:
            found = {"error": str(error)}
        if found is None:
            return None
        when = found.get("when")
        return {
            "error": str(found.get("error", "no reason was written")),
            "traceback": str(found.get("traceback", "")),
            "when": when if isinstance(when, (int, float)) else 0.0,
        }

    def write_config(self, step: Step, machine: dict[str, Any], check: Callable[[], None] = lambda: None) -> None:
        """Write what is made, and add `machine` (code, libraries, device, ...) to the attempts that there were.

        `check` is as in `write_whole`.
        """
        beside = {key: value for key, value in step.to_json().items() if key not in step.spec and key not in SPARED}
        try:
            attempts = value_of("attempts", (self.config() or {}).get("attempts", []), tuple[Mapping[str, Any], ...])
        except UserError:  # whoever has damaged it, this attempt can be written down
            attempts = ()
        attempt = {"when": time.time()} | machine
        about = {"id": step.id, "spec": step.spec, "unhashed": beside, "machine": machine}
        write_json(self.path / "config.json", about | {"attempts": [*attempts, attempt]}, check)

    def clean(self) -> None:
        """Remove what a killed attempt was writing, and no one's claim."""
        with suppress(OSError):  # what is left is in nobody's way
            for path in self.path.glob(".*.*"):
                if not path.name.startswith(".claim-"):
                    with suppress(OSError):
                        path.unlink()

    def tidy(self) -> None:
        """Remove what a step that is done needs no more, left by a process that was killed or overtaken."""
        self.clean()
        for path in (self.resume, self.path / "failed.json"):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        claims.clear(self.path)

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of the epochs so far; a line torn by a crash, and what is no number, is left out."""
        rows = [
            {key: value for key, value in row.items() if type(value) in (int, float)}
            for row in read_lines(self.path / "metrics.jsonl")
        ]
        return [row for row in rows if type(row.get("epoch")) is int]

    def parent(self) -> "Run | None":
        """Return the run that this one started from; None for a root, a file, or if it is not known."""
        try:
            step = self.step()
        except DamagedError:
            return None
        if step is None or step.parent is None or is_file(step.parent):
            return None
        return Run(self.path.parent / step.places[step.parent])


def find(runs: Path, name: str | None) -> Run | None:
    """Return the run with this id, if its directory is in `runs`."""
    if not name or not name.startswith("r") or not name[1:].isalnum():
        return None
    return next((Run(path) for path in runs.glob(f"*-{name}")), None)


def lineage(run: Run) -> list[Run]:
    """Return the run and its ancestors, the oldest first; one that a damaged record makes its own ancestor once."""
    found = [run]
    while (parent := found[0].parent()) and parent not in found:
        found.insert(0, parent)
    return found


def every(runs: Path) -> Iterator[Run]:
    """Yield all runs in `runs`, done or not, by name."""
    return (Run(path) for path in sorted(runs.glob("[!.]*")) if os.path.lexists(path / "config.json"))
