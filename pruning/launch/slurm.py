"""A sweep on a SLURM cluster, through submitit.

A shared step (the dense network of a seed) is a task of its own; the tasks that start from it are an array that waits
for it (`afterok`). A task carries the specs of its steps, frozen when it was submitted; it reads no YAML.
"""

import io
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit

from pruning.env import Env
from pruning.errors import UserError
from pruning.files import write_json
from pruning.launch.slurm_task import SlurmTask, afterwards
from pruning.pipeline import forecast, redo
from pruning.pipeline.summary import report_after
from pruning.pipeline.sweep import Sweep
from pruning.pipeline.watch import LiveStatus, raise_for_failures, sweep_text
from pruning.runs import LOST, Step, statuses
from pruning.runs.provenance import PACKAGE, VERSION_FILE, code_version
from pruning.runs.records import FOLDER, record_jobs, recorded_jobs
from pruning.settings import Settings, setting

ROOT = PACKAGE.parent
POLL = 2.0  # seconds between looks while waiting
EARLY = 60  # seconds that SLURM may send a signal before its time
LARGEST = 1000  # tasks in one array; SLURM's MaxArraySize is 1001 unless its administrator chose otherwise


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(Settings):
    """The node hydra.launcher of hydra/launcher=slurm; what each means stands in its YAML."""

    partition: str | None = None
    account: str | None = None
    gpus_per_task: int = setting(1, least=0)
    cpus_per_task: int = setting(4, least=1)
    mem_gb: float | None = setting(16.0, above=0)
    timeout_min: int = setting(240, least=1)
    signal_delay_s: int = setting(120, least=0)
    max_requeues: int = setting(100, least=0)
    array_parallelism: int = setting(64, least=1)
    setup: tuple[str, ...] = ()
    additional: Mapping[str, Any] | None = None
    snapshot: bool = False
    wait: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timeout_min * 60 <= self.signal_delay_s + EARLY:
            text = (
                f"timeout_min={self.timeout_min} must be more than a minute longer than signal_delay_s="
                f"{self.signal_delay_s}: SLURM may send the signal that much early, and a task would be stopped as "
                "soon as it starts"
            )
            raise UserError(text, "timeout_min")


def resolve_precision(wanted: str, env: Env, settings: SlurmSettings) -> str:
    """Return what "auto" means where the tasks will run."""
    # the login node rarely has the GPU that the tasks will have; those since 2020 compute in bf16
    on_gpu = settings.gpus_per_task and env.device == "auto" and wanted == "auto"
    return "bf16" if on_gpu else env.precision(wanted)


def launch(sweep: Sweep, settings: SlurmSettings) -> None:
    """Submit what is missing and print how to watch it; with `wait` stay until it is over."""
    if not shutil.which("sbatch"):
        raise UserError("hydra/launcher=slurm needs SLURM's commands (sbatch, squeue) here; run it on a login node")
    if code_version()["dirty"] and not settings.snapshot:
        print("warning: the code differs from its last commit; hydra.launcher.snapshot=true keeps it as it is now")
    redo.announce(sweep.redo, sweep.steps, sweep.env.runs)
    record = sweep.record()
    print("\n".join(forecast.totals(sweep)), flush=True)
    began = time.monotonic()
    jobs = submit(sweep, settings)
    ids = ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    none = "what is missing is queued already" if sweep.missing() else "nothing is missing"
    print(f"submitted {len(jobs)} task{'' if len(jobs) == 1 else 's'}: " + (f"jobs {ids}" if jobs else none))
    print(f"watch:  squeue --me;  python main.py stage=status env.runs={shlex.quote(str(sweep.env.runs))}")
    print(f"record: {record}", flush=True)
    if settings.wait:
        wait(sweep)
        print(sweep_text(sweep, time.monotonic() - began))
        print(report_after(sweep.env.runs), flush=True)
        found = statuses(sweep.steps, sweep.env.runs)
        errors = {id: status.detail for id, status in found.items() if status.state in LOST}
        raise_for_failures(sweep, errors, "the same command submits only what is missing")


def submit(sweep: Sweep, settings: SlurmSettings) -> list[str]:
    """Submit the tasks with missing steps, parents first, and return their jobs; what is queued already stays so."""
    runs, alive = sweep.env.runs, queued()
    missing = {step.id for step in sweep.missing()}
    job_of = {id: job for id, job in recorded_jobs(runs).items() if job in alive}
    for step in sweep.steps:
        if step.parent in missing and step.parent not in job_of:  # its parent has failed: SLURM is about to cancel it
            job_of.pop(step.id, None)
    arrays: dict[str | None, list[list[Step]]] = {}  # by the step that all their tasks wait for
    made = set(job_of)
    for task in sweep.tasks:
        steps = [step for step in task if step.id in missing and step.id not in job_of]
        if steps:
            arrays.setdefault(steps[0].parent if steps[0].parent in made else None, []).append(steps)
            made |= {step.id for step in steps}
    code = code_for(sweep, settings) if arrays else ROOT
    submitted = []
    for parent, tasks in arrays.items():
        for first in range(0, len(tasks), LARGEST):
            some = tasks[first : first + LARGEST]
            jobs = submit_array(sweep, some, job_of[parent] if parent else None, settings, code)
            job_of |= {step.id: job for task, job in zip(some, jobs, strict=True) for step in task}
            submitted += jobs
    return submitted


def submit_array(
    sweep: Sweep, tasks: Sequence[Sequence[Step]], after: str | None, settings: SlurmSettings, code: Path
) -> list[str]:
    """Submit one array, whose tasks start when job `after` has succeeded; return the job of each task."""
    folder = sweep.env.runs / FOLDER
    executor = submitit.AutoExecutor(folder / "slurm" / "%j", "slurm", slurm_max_num_timeout=settings.max_requeues)
    additional = {"requeue": True, **(settings.additional or {})}
    if after:
        additional |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
    optional: dict[str, Any] = {"slurm_partition": settings.partition, "slurm_account": settings.account}
    optional |= {"gpus_per_node": settings.gpus_per_task or None, "mem_gb": settings.mem_gb}
    executor.update_parameters(
        name=sweep.title,
        timeout_min=settings.timeout_min,
        cpus_per_task=settings.cpus_per_task,
        stderr_to_stdout=True,
        slurm_signal_delay_s=settings.signal_delay_s,
        slurm_array_parallelism=settings.array_parallelism,
        slurm_setup=[*environment(code), *settings.setup],
        slurm_teardown=afterwards(settings.max_requeues),
        slurm_additional_parameters=additional,
        **{name: value for name, value in optional.items() if value is not None},
    )
    env = replace(sweep.env, threads=sweep.env.threads or settings.cpus_per_task).to_json()
    try:
        with redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it also raises
            jobs = [executor.submit(SlurmTask([step.to_json() for step in task], env)) for task in tasks]
    except submitit.core.utils.FailedJobError as error:
        reasons = [line.replace("sbatch: error: ", "") for line in str(error).splitlines()]
        raise UserError(f"SLURM refuses the tasks: {'; '.join(reasons)}") from None
    ids = [job.job_id for job in jobs]
    record_jobs(sweep.env.runs, tasks, ids)
    return ids


def environment(code: Path) -> list[str]:
    """Return the shell lines that make Python take this project from `code`, whatever the working directory holds."""
    return [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}", "export PYTHONSAFEPATH=1"]


def code_for(sweep: Sweep, settings: SlurmSettings) -> Path:
    """Return where the tasks find the code: here, or in a copy made now."""
    if not settings.snapshot:
        return ROOT
    copy = sweep.env.runs.resolve() / FOLDER / f"code-{sweep.id}-{time.strftime('%Y%m%d-%H%M%S')}"
    shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    write_json(copy / PACKAGE.name / VERSION_FILE, code_version())
    return copy


def queued() -> set[str]:
    """Return this user's jobs that wait or run, array tasks one by one. Needs no accounting."""
    answer = subprocess.run(["squeue", "--me", "--noheader", "--array", "--format=%i"], capture_output=True, text=True)
    if answer.returncode:
        raise UserError(f"squeue failed: {' '.join(answer.stderr.split())}")
    return set(answer.stdout.split())


def wait(sweep: Sweep) -> None:
    """Show the sweep until all its steps are done, or none of its jobs is left; Ctrl-C leaves the jobs alone."""
    live, runs = LiveStatus(sweep), sweep.env.runs
    ids = {step.id for step in sweep.steps}
    try:
        while live.refresh():
            time.sleep(POLL)
            jobs = {job for id, job in recorded_jobs(runs).items() if id in ids}
            if not jobs & queued():
                live.refresh()
                return
    finally:
        live.close()
