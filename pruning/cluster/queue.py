"""What SLURM knows of the jobs that were submitted, asked with its own commands; it is asked again if it fails.

Live jobs and those that ended a while ago (MinJobAge) are in the controller's memory; older ones only in the
accounting, where there is one. Job ids are used again after the controller has lost its memory, and each cluster has
its own, so a job counts only if its cluster and its name are those of the record.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pruning.runs.jobs import JobRecord, recorded_jobs
from pruning.runs.seen import NEVER, JobSeen

FIELDS = ("JobArrayID", "State", "Reason", "exit_code", "SubmitTime", "EndTime", "NodeList", "Name")
ACCOUNTED = ("JobID", "State", "Reason", "ExitCode", "Submit", "End", "NodeList", "JobName")  # the same, for sacct
LIVE = ("PENDING", "RUNNING", "SUSPENDED")  # the base states of jobs that are not over
ALIVE = (*LIVE, "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STOPPED")
UNKNOWN_ID = "Invalid job id"
ANSWER = 60.0  # seconds that one command may take; SLURM's own retries end before
PAUSE = 1.0  # seconds between attempts, at first; doubled each time
LONGEST_PAUSE = 15.0
AT_ONCE = 500  # ids in one command line
BEFORE = re.compile(r".+-s[0-9a-f]{8}")  # what all jobs of 0.1 and 0.2 were called

Rows = dict[str, dict[str, str]]
"""What SLURM says of each job, by its id as it is shown, under FIELDS."""


@dataclass(frozen=True)
class Cluster:
    """What a controller says of itself."""

    name: str
    largest_array: int  # tasks in one array


def look(runs: Path, patience: float = 0.0) -> dict[str, JobSeen] | None:
    """Return what SLURM says of the job of each recorded step that is not done, by the step's id.

    A step that is not in the answer has no job that SLURM remembers. None if it does not answer; `patience` is how many
    seconds to try again.
    """
    done = {path.parent.name.rpartition("-")[2] for path in runs.glob("*/result.json")}
    records = {id: record for id, record in recorded_jobs(runs).items() if id not in done}
    if (found := states(records.values(), runs, patience)) is None:
        return None
    return {id: found[record.job] for id, record in records.items() if record.job in found}


def states(records: Iterable[JobRecord], runs: Path, patience: float = 0.0) -> dict[str, JobSeen] | None:
    """Return what SLURM says of the jobs of `records`, by job; None if it does not answer for `patience` seconds."""
    wanted = {record.job: record for record in records}
    if not wanted:
        return {}
    end = time.monotonic() + patience
    if (here := cluster(patience)) is None:
        return None
    wanted = {job: record for job, record in wanted.items() if record.cluster in ("", here.name)}
    rows: Rows = {}
    for numbers in batches(wanted):
        command = ["squeue", "--noheader", "--array", f"--jobs={','.join(numbers)}"]
        text = ask([*command, "--states=all", f"--Format={','.join(f'{field}:|' for field in FIELDS)}"], end)
        if text is None:
            return None
        rows |= (found := split(text, FIELDS))
        if any(row["State"] == "COMPLETING" for row in found.values()):  # to its end, or to be requeued?
            live = ask([*command, f"--states={','.join(LIVE)}", "--Format=JobArrayID:|"], end)
            for row in split(live or "", FIELDS[:1]):
                rows.get(row, {})["Requeued"] = "yes"
    rows |= accounted([job for job in wanted if row_of(job, rows) is None])
    seen = {job: row_of(job, rows) for job in wanted}
    return {job: as_seen(row, wanted[job], runs) for job, row in seen.items() if row and ours(row, wanted[job])}


def batches(jobs: Iterable[str]) -> Iterator[list[str]]:
    """Yield the numbers of the jobs, an array's once, as many at a time as a command may have."""
    numbers = list(dict.fromkeys(job.partition("_")[0] for job in jobs))
    return (numbers[first : first + AT_ONCE] for first in range(0, len(numbers), AT_ONCE))


def ask(command: Sequence[str], end: float = 0.0) -> str | None:
    """Return what a command of SLURM prints, asked again until `end` of the monotonic clock, or None."""
    if shutil.which(command[0]) is None:
        return None
    pause, environ = PAUSE, os.environ | {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
    while True:
        with suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(
                command, capture_output=True, text=True, errors="replace", env=environ, timeout=ANSWER
            )
            if answer.returncode == 0:
                return answer.stdout
            if UNKNOWN_ID in answer.stderr:  # all of them: SLURM has forgotten them
                return ""
        if time.monotonic() + pause > end:
            return None
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def cluster(patience: float = 0.0) -> Cluster | None:
    """Return what the controller says of itself; None if it does not answer for `patience` seconds."""
    text = ask(["scontrol", "show", "config"], time.monotonic() + patience)
    found = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", text or "", re.MULTILINE))
    if "ClusterName" not in found:
        return None
    limits = [
        found.get("MaxArraySize", ""),
        *re.findall(r"max_array_tasks=(\d+)", found.get("SchedulerParameters", "")),
    ]
    return Cluster(found["ClusterName"], max(1, min((int(n) for n in limits if n.isdigit()), default=1)))


def accounted(jobs: Sequence[str]) -> Rows:
    """Return what the accounting knows of `jobs`; nothing where there is none."""
    rows: Rows = {}
    for numbers in batches(jobs):
        fields = ["--allocations", "--parsable2", f"--format={','.join(ACCOUNTED)}"]
        lines = (ask(["sacct", *fields, "-j", ",".join(numbers)]) or "").splitlines()
        if lines and set(ACCOUNTED) == set(head := lines[0].split("|")):
            names = dict(zip(ACCOUNTED, FIELDS, strict=True))
            rows |= split("\n".join(lines[1:]), [names[name] for name in head])
    return rows


def split(text: str, fields: Sequence[str]) -> Rows:
    """Return the lines of `text`, whose parts are between bars, by job; the name comes last and may hold anything."""
    parts = (line.split("|", len(fields) - 1) for line in text.splitlines())
    rows = (dict(zip(fields, map(str.strip, part), strict=True)) for part in parts if len(part) == len(fields))
    return {row["JobArrayID"].rstrip("|"): row for row in rows}


def row_of(job: str, rows: Rows) -> dict[str, str] | None:
    """Return the row of a job: tasks that were cancelled while they waited stand together in that of their array."""
    number = job.partition("_")[0]
    return rows.get(job) or rows.get(number) or next((rows[id] for id in rows if id.startswith(f"{number}_[")), None)


def ours(row: Mapping[str, str], record: JobRecord) -> bool:
    """Return whether a job has a name that it was submitted under."""
    name = row["Name"].rstrip("|")
    return name in record.names if record.names else bool(BEFORE.fullmatch(name))


def as_seen(row: Mapping[str, str], record: JobRecord, runs: Path) -> JobSeen:
    """Return what a row says."""
    state, reason = row["State"], row["Reason"].replace("_", " ")  # some versions have one, some the other
    return JobSeen(
        job=record.job,
        state=state,
        alive=(state in ALIVE or "Requeued" in row) and reason != NEVER,
        reason=reason,
        exit=exit_text(row["exit_code"]),
        node="" if row["NodeList"] in ("(null)", "None assigned") else row["NodeList"],
        log=record.log(runs),
        since=seconds(row["SubmitTime"]),
        ended=seconds(row["EndTime"]),
    )


def exit_text(code: str) -> str:
    """Return how a job ended, in words: `code` is a status as `wait` gives it (squeue), or `exit:signal` (sacct)."""
    first, colon, second = code.partition(":")
    if not first.isdigit() or (colon and not second.isdigit()):
        return ""
    status, number = (int(first), int(second)) if colon else (int(first) >> 8, int(first) & 0x7F)
    return f"signal {number}" if number else f"exit {status}" if status else ""


def seconds(text: str) -> float:
    """Return a time of SLURM, 0 if there is none."""
    return float(text) if text.isdigit() else 0.0
