"""What SLURM knows of the jobs that were submitted. No controller, no answer: asking never raises.

Live jobs and those that ended a while ago (MinJobAge) are in the controller's memory; older ones only in the
accounting, where there is one. Job ids are used again after the controller has lost its memory, and each cluster has
its own, so a job counts only if its cluster and its name are those of the record.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pruning.runs.jobs import JobRecord, recorded_jobs
from pruning.runs.seen import JobSeen

FIELDS = (
    "JobArrayID",
    "Cluster",
    "State",
    "Reason",
    "exit_code",
    "SubmitTime",
    "StartTime",
    "EndTime",
    "TimeUsed",
    "Name",
)
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
)
ENDING = ("COMPLETING", "STAGE_OUT")
UNKNOWN_ID = "Invalid job id"
ANSWER = 60.0  # seconds that one command may take; SLURM's own retries end before
PAUSE = 2.0  # seconds between attempts, at first; doubled each time
LONGEST_PAUSE = 15.0
AT_ONCE = 500  # ids in one command line


def look(runs: Path, patience: float = 0.0) -> dict[str, JobSeen] | None:
    """Return what SLURM says of the job of each recorded step, by the step's id; None if it does not answer.

    A step that is not in the answer has no job that SLURM remembers. `patience` is how many seconds to try again.
    """
    records = recorded_jobs(runs)
    if (found := states(records.values(), patience, runs)) is None:
        return None
    return {id: found[record.job] for id, record in records.items() if record.job in found}


def states(records: Iterable[JobRecord], patience: float = 0.0, runs: Path = Path()) -> dict[str, JobSeen] | None:
    """Return what SLURM says of the jobs of `records`, by job; None if it does not answer for `patience` seconds."""
    wanted = {record.job: record for record in records}
    numbers = sorted({job.partition("_")[0] for job in wanted}, key=len)
    if not numbers:
        return {}
    rows: dict[str, dict[str, str]] = {}
    end = time.monotonic() + patience
    for some in (numbers[first : first + AT_ONCE] for first in range(0, len(numbers), AT_ONCE)):
        command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(some)}"]
        text = ask([*command, f"--Format={','.join(f'{field}:|' for field in FIELDS)}"], end)
        if text is None:
            return None
        rows |= {row["JobArrayID"]: row for row in _split(text)}
    seen = {
        job: _seen(rows[job], record, runs) for job, record in wanted.items() if job in rows and ours(rows[job], record)
    }
    return seen | _accounted([record for job, record in wanted.items() if job not in seen], runs)


def ask(command: list[str], end: float = 0.0) -> str | None:
    """Return what a command of SLURM prints, asked again until `end` (of the monotonic clock); None without an answer."""
    if shutil.which(command[0]) is None:
        return None
    pause, environ = PAUSE, os.environ | {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
    while True:
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, errors="replace", env=environ, timeout=ANSWER
            )
            if answer.returncode == 0:
                return answer.stdout
            if UNKNOWN_ID in answer.stderr:  # all of them: SLURM has forgotten them
                return ""
        except (OSError, subprocess.TimeoutExpired):
            pass
        if time.monotonic() + pause > end:
            return None
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


@lru_cache(maxsize=1)
def cluster() -> str:
    """Return the name of the cluster whose commands are here; empty if it is not known."""
    match = re.search(r"^ClusterName\s*=\s*(\S+)", ask(["scontrol", "show", "config"]) or "", re.MULTILINE)
    return match[1] if match else ""
