"""A sweep on a SLURM cluster.

A shared step (the dense network of a seed) is a task of its own; the tasks that start from it are an array that waits
for it (`afterok`). A task carries the specs of its steps, frozen when it was submitted; it reads no YAML.
"""

import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import suppress

from pruning.cluster.queue import cluster, states
from pruning.cluster.turns import turn
from pruning.errors import UserError
from pruning.launch.slurm_settings import SlurmSettings, resolve_precision
from pruning.launch.submission import PATIENCE, SILENT, Submission
from pruning.pipeline import forecast, redo
from pruning.pipeline.sweep import Sweep
from pruning.pipeline.watch import LiveStatus, raise_for_lost, sweep_text
from pruning.program import COMMAND
from pruning.runs.jobs import recorded_jobs
from pruning.runs.provenance import code_version
from pruning.runs.records import FOLDER
from pruning.runs.seen import JobSeen

__all__ = ["SlurmSettings", "launch", "resolve_precision"]

POLL = 2.0  # seconds between looks while waiting
REMEDY = "the same command submits only what is missing"


def launch(sweep: Sweep, settings: SlurmSettings, ended: Callable[[Sweep], object] = lambda _: None) -> None:
    """Submit what is missing and print how to watch it; with `wait` stay until it is over, and call `ended`."""
    if not shutil.which("sbatch"):
        raise UserError("hydra/launcher=slurm needs SLURM's commands (sbatch, squeue) here; run it on a login node")
    if code_version()["dirty"] and not settings.snapshot:
        print("warning: the code differs from its last commit; hydra.launcher.snapshot=true keeps it as it is now")
    began = time.monotonic()
    submit(sweep, settings)
    if settings.wait:
        queue = wait(sweep)
        print(sweep_text(sweep, time.monotonic() - began), flush=True)
        ended(sweep)
        raise_for_lost(sweep, queue, REMEDY)


def submit(sweep: Sweep, settings: SlurmSettings) -> None:
    """Submit what is missing, one launch after the other; nothing is written or moved while SLURM does not answer."""
    if (here := cluster(PATIENCE)) is None:
        raise UserError(SILENT)
    runs = sweep.env.runs
    with turn(runs) as claim:
        redo.announce(sweep.redo, sweep.steps, runs)
        known = (runs / FOLDER / f"{sweep.title}.json").exists()
        record = sweep.record()
        print("\n".join(forecast.totals(sweep)), flush=True)
        submission = Submission(sweep, settings, here, claim)
        try:
            submission.submit()
        except UserError:
            if not known and not submission.jobs:  # nothing has come of it, so status is not to show it
                with suppress(OSError):
                    record.unlink()
            raise
    jobs = submission.jobs
    ids = ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    none = "what is missing is queued already" if sweep.missing() else "nothing is missing"
    print(f"submitted {len(jobs)} task{'' if len(jobs) == 1 else 's'}: " + (f"jobs {ids}" if jobs else none))
    print(f"watch:  {COMMAND} stage=status env.runs={shlex.quote(str(runs))};  squeue --me")
    print(f"record: {record}", flush=True)


def wait(sweep: Sweep) -> dict[str, JobSeen]:
    """Show the sweep until all its steps are done, or none of its jobs is left; Ctrl-C leaves the jobs alone.

    Return what SLURM said last of the jobs of the steps that are not done, by the steps' ids.
    """
    live, runs, queue, noted = LiveStatus(sweep), sweep.env.runs, dict[str, JobSeen](), False
    try:
        while left := live.refresh(queue):
            time.sleep(POLL)
            records = {id: record for id, record in recorded_jobs(runs).items() if id in left}
            if (seen := states(records.values(), runs)) is None:
                if not noted:
                    print("SLURM does not answer; it is asked again until it does", flush=True)
                noted = True
                continue
            queue = {id: seen[record.job] for id, record in records.items() if record.job in seen}
            noted = False
            if not any(job.alive or job.state == "COMPLETING" for job in queue.values()):
                live.refresh(queue)
                break
    finally:
        live.close()
    return queue
