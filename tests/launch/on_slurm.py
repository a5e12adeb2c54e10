"""Sweeps on the SLURM of one node, as seen from outside."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pruning.files import read_lines
from pruning.runs import every
from tests.commands import ROOT, Command, Running
from tests.helpers import rows
from tests.launch.processes import until

CLUSTER = ROOT / "tests" / "cluster"
STATE = Path(os.environ.get("SLURM_ONE_DIR", "/var/lib/slurm-one"))
CONF = Path("/etc/slurm/slurm.conf")
SLURM = (
    "hydra/launcher=slurm",
    "hydra.launcher.gpus_per_task=0",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=0.25",
)
WAIT = "hydra.launcher.wait=true"
HOLD = "hydra.launcher.additional={hold: true}"
GPU = "hydra.launcher.gpus_per_task=1"
SAFE = "hydra.launcher.partition=high"  # SLURM preempts more jobs than it must, so keep the others out of its way
ONE = ("prune.percent=0.3", "seed=0")
GRID = ("prune.percent=0.3,0.5", "seed=0,1", "-m")


def shell(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def jobs(runs: Path) -> list[str]:
    """Return all jobs that were submitted for `runs`, the oldest first."""
    return [line["job"] for line in read_lines(runs / ".sweeps" / "jobs.jsonl")]


def about(job: str) -> dict[str, str]:
    """Return what SLURM knows of a job, also after its end."""
    fields = shell("scontrol", "--oneliner", "show", "job", job).split()
    return {key: value for key, _, value in (field.partition("=") for field in fields)}


def made(runs: Path) -> dict[str, tuple[bytes, list[dict[str, float]]]]:
    """Return, for each step that is done, the bytes of its model and its epochs."""
    return {run.path.name: (run.model.read_bytes(), rows(run)) for run in every(runs) if run.done}


def equal_to(reference: Path, runs: Path, steps: int) -> bool:
    """Whether exactly `steps` steps are done in `runs`, each as in the reference."""
    found = made(runs)
    return len(found) == steps and found.items() <= made(reference).items()


def result_times(runs: Path) -> dict[str, int]:
    """Return when each result was written; making a step again would change it."""
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}


@dataclass
class Submitter(Command):
    """A `Command` whose jobs run on SLURM."""

    recipe: tuple[str, ...] = ()

    def submit(self, *overrides: str) -> Running:
        return self.start(*self.recipe, *SLURM, *overrides)


def start_all() -> None:
    """Start what of SLURM does not run."""
    shell(str(CLUSTER / "slurm-up.sh"))


def kill_controller(number: signal.Signals = signal.SIGKILL) -> None:
    """End slurmctld; with SIGTERM it saves its state first."""
    pid = (STATE / "slurmctld.pid").read_text().strip()
    os.kill(int(pid), number)

    def ended() -> bool:
        try:
            return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    until(ended)


@contextmanager
def configured(*lines: str) -> Iterator[None]:
    """Have the controller run with further lines in its configuration; some are read only when it starts."""

    def restart(text: str) -> None:
        kill_controller(signal.SIGTERM)
        CONF.write_text(text)
        shell("slurmctld")
        until(lambda: shell("sinfo", "--noheader", "--format=%t").split()[0] in ("idle", "mix", "alloc"))

    before = CONF.read_text()
    restart("\n".join([before.rstrip(), *lines, ""]))
    try:
        yield
    finally:
        restart(before)
