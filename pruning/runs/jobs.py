"""The jobs that were submitted to a batch system, kept in `env.runs/.sweeps`: which job was to make which steps."""

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pruning.errors import UserError
from pruning.files import cannot_write, read_lines
from pruning.runs.records import FOLDER
from pruning.settings import value_of

JOBS = "jobs.jsonl"
LOGS = "slurm"  # the folder beside it where each job has its own


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job as it was submitted. Numbers are used again, so a job counts as this one only with cluster and name."""

    job: str  # as squeue shows it, like 12_3
    steps: tuple[str, ...]  # their ids
    cluster: str = ""  # empty if it was not known, and in records of 0.1 and 0.2
    names: tuple[str, ...] = ()  # under which the queue may show it; none in those of 0.1 and 0.2
    after: str | None = None  # the job that it waits for
    when: float = field(default_factory=time.time)  # seconds since 1970

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Read a line of the file; UserError if it is no record."""
        kinds = {"job": str, "steps": tuple[str, ...], "cluster": str, "names": tuple[str, ...], "when": float}
        given = {key: value_of(key, plain[key], kind) for key, kind in kinds.items() if key in plain}
        if not {"job", "steps"} <= given.keys() or not re.fullmatch(r"\d+(_\d+)?", given["job"]):
            raise UserError("this is not the record of a job")
        return cls(**given, after=value_of("after", plain.get("after"), str | None))

    def to_json(self) -> dict[str, Any]:
        return self.__dict__ | {"steps": list(self.steps), "names": list(self.names)}

    def log(self, runs: Path) -> Path:
        """Return where the job's script prints, also what comes before Python."""
        return runs / FOLDER / LOGS / self.job / f"{self.job}_0_log.out"


def record_jobs(runs: Path, records: Iterable[JobRecord]) -> None:
    """Write down jobs that were submitted; UserError if the disk refuses."""
    path = runs / FOLDER / JOBS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            whole = file.tell() == 0 or (file.seek(-1, 2), file.read(1))[1] == b"\n"
            lines = "".join(json.dumps(record.to_json()) + "\n" for record in records)
            file.write((lines if whole else "\n" + lines).encode())  # a crash tore the last line: leave it alone
    except OSError as error:
        raise cannot_write(path, error) from None


def recorded_jobs(runs: Path) -> dict[str, JobRecord]:
    """Return the job that was submitted last for each step, by its id; lines that are no records are left out."""
    found: dict[str, JobRecord] = {}
    for plain in read_lines(runs / FOLDER / JOBS):
        try:
            record = JobRecord.from_json(plain)
        except UserError:
            continue
        found |= dict.fromkeys(record.steps, record)
    return found
