"""Submitting what is missing of a sweep, through submitit: tasks with their steps frozen, in arrays, parents first."""

import io
import shlex
import shutil
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import submitit

from pruning.cluster.queue import Cluster, states
from pruning.errors import UserError
from pruning.files import write_json
from pruning.launch.bundles import bundles, ends, job_name
from pruning.launch.slurm_settings import SlurmSettings
from pruning.launch.slurm_task import SlurmTask, afterwards
from pruning.pipeline.sweep import Sweep
from pruning.runs import Step
from pruning.runs.claims import Claim
from pruning.runs.jobs import LOGS, JobRecord, record_jobs, recorded_jobs
from pruning.runs.provenance import PACKAGE, VERSION_FILE, code_version
from pruning.runs.records import FOLDER

ROOT = PACKAGE.parent
PATIENCE = 30.0  # seconds that SLURM is asked again
SILENT = "SLURM's controller does not answer (`scontrol ping` says more); nothing was submitted"


def queued(sweep: Sweep) -> dict[str, str]:
    """Return the job of each missing step that will be made by one which waits or runs, by the step's id."""
    runs, missing = sweep.env.runs, {step.id for step in sweep.missing()}
    records = {id: record for id, record in recorded_jobs(runs).items() if id in missing}
    if (seen := states(records.values(), runs, PATIENCE)) is None:
        raise UserError(SILENT)
    found = {id: record.job for id, record in records.items() if record.job in seen and seen[record.job].alive}
    for step in sweep.steps:
        if step.id in found and step.parent in missing:
            # SLURM is about to cancel what waits for a job that has failed, whoever submitted the parent again since
            parent, own = found.get(step.parent), found[step.id]
            if parent is None or (parent != own and records[step.id].after not in (None, parent)):
                del found[step.id]
    return found


@dataclass
class Submission:
    """One launch that submits; it holds the turn for the directory of runs."""

    sweep: Sweep
    settings: SlurmSettings
    cluster: Cluster
    turn: Claim
    jobs: list[str] = field(default_factory=list)  # submitted so far

    def submit(self) -> None:
        """Submit the tasks with missing steps, parents first; what is queued already stays so.

        UserError if SLURM refuses one: it says what was submitted before.
        """
        job_of = queued(self.sweep)
        missing = {step.id for step in self.sweep.missing()} - job_of.keys()
        tasks = bundles(self.sweep, missing, self.settings.cells_per_task)
        arrays: dict[str | None, list[list[Step]]] = {}  # by the step that all their tasks wait for
        for task in tasks:
            parent = task[0].parent
            arrays.setdefault(parent if parent in missing or parent in job_of else None, []).append(task)
        code = code_for(self.sweep, self.settings) if arrays else ROOT
        for parent, waiting in arrays.items():
            for first in range(0, len(waiting), self.cluster.largest_array):
                some = waiting[first : first + self.cluster.largest_array]
                try:
                    self.turn.check()
                    jobs = self.submit_array(some, job_of[parent] if parent else None, code)
                except UserError as error:
                    raise UserError(f"{error}; {self.so_far(len(tasks))}") from None
                job_of |= {step.id: job for task, job in zip(some, jobs, strict=True) for step in task}
                self.jobs += jobs

    def so_far(self, tasks: int) -> str:
        """Return what was submitted before something was refused."""
        if not self.jobs:
            return "nothing was submitted"
        ids = ", ".join(dict.fromkeys(job.partition("_")[0] for job in self.jobs))
        before = f"{len(self.jobs)} of {tasks} tasks were submitted before that (jobs {ids})"
        return f"{before}; the same command submits the rest"

    def submit_array(self, tasks: Sequence[Sequence[Step]], after: str | None, code: Path) -> list[str]:
        """Submit one array, whose tasks start when job `after` has succeeded; return the job of each task."""
        env, name = self.sweep.env, job_name([end for task in tasks for end in ends(task)])
        names = [job_name(ends(task)) for task in tasks]
        executor = self.executor(name, after, code)
        plain = replace(env, threads=env.threads or self.settings.cpus_per_task).to_json()
        try:
            with redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it also raises
                jobs = [
                    executor.submit(SlurmTask([step.to_json() for step in task], plain, own if own != name else ""))
                    for task, own in zip(tasks, names, strict=True)
                ]
        except submitit.core.utils.FailedJobError as error:
            reasons = [line.replace("sbatch: error: ", "") for line in str(error).splitlines()]
            raise UserError(f"SLURM refuses the tasks: {'; '.join(filter(None, reasons))}") from None
        records = [
            JobRecord(
                job=job.job_id,
                steps=tuple(step.id for step in task),
                cluster=self.cluster.name,
                names=tuple(dict.fromkeys((name, own))),
                after=after,
            )
            for job, task, own in zip(jobs, tasks, names, strict=True)
        ]
        record_jobs(env.runs, records)
        return [record.job for record in records]

    def executor(self, name: str, after: str | None, code: Path) -> submitit.AutoExecutor:
        """Return what submits tasks under `name` that start when job `after` has succeeded."""
        settings = self.settings
        folder = self.sweep.env.runs / FOLDER / LOGS / "%j"
        executor = submitit.AutoExecutor(folder, "slurm", slurm_max_num_timeout=settings.max_requeues)
        additional = settings.sbatch_options()
        if after:
            additional |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
        optional: dict[str, Any] = {"slurm_partition": settings.partition, "slurm_account": settings.account}
        optional |= {"gpus_per_node": settings.gpus_per_task or None, "mem_gb": settings.mem_gb}
        executor.update_parameters(
            name=name,
            timeout_min=settings.timeout_min,
            cpus_per_task=settings.cpus_per_task,
            stderr_to_stdout=True,
            slurm_signal_delay_s=settings.signal_delay_s,
            slurm_array_parallelism=settings.array_parallelism,
            slurm_setup=[*environment(code), *settings.setup, *RESTORED],
            slurm_teardown=afterwards(settings.max_requeues),
            slurm_additional_parameters=additional,
            **{key: value for key, value in optional.items() if value is not None},
        )
        return executor


def environment(code: Path) -> list[str]:
    """Return the shell lines that come before those of the user.

    Python is to take this project from `code`, whatever the working directory holds. SLURM 22.05 and later no longer
    hands the processors of a job on to srun; where jobs begin with an empty environment, what is set here must reach
    the task all the same.
    """
    return [
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
        "export SLURM_EXPORT_ENV=ALL",
        "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}",
    ]


RESTORED = [  # after the lines of the user: what comes later must run also if the task ends with an error
    "set +eu +o pipefail",
    "trap - ERR",
]


def code_for(sweep: Sweep, settings: SlurmSettings) -> Path:
    """Return where the tasks find the code: here, or in a copy made now."""
    if not settings.snapshot:
        return ROOT
    copy = sweep.env.runs.resolve() / FOLDER / f"code-{sweep.id}-{time.strftime('%Y%m%d-%H%M%S')}"
    shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    write_json(copy / PACKAGE.name / VERSION_FILE, code_version())
    return copy
