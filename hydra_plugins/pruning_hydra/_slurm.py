"""A sweep on a SLURM cluster, through submitit.

A shared step (the dense network of a seed) is a task of its own; the tasks that start from it are an array that waits
for it (`afterok`). A task carries the specs of its steps, frozen when it was submitted; it reads no YAML.
"""

import io
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import submitit

from hydra_plugins.pruning_hydra._slurm_task import Task, afterwards
from pruning import forecast, hosts, plan
from pruning.errors import UserError
from pruning.files import write_json
from pruning.runs import Step
from pruning.sweeps import FOLDER, Sweep, jobs_of, states
from pruning.watch import Watch, failure_text, sweep_text

ROOT = Path(__file__).resolve().parents[2]
POLL = 2.0  # seconds between looks while waiting
EARLY = 60  # seconds that SLURM may send a signal before its time
LARGEST = 1000  # tasks in one array; SLURM's MaxArraySize is 1001 unless its administrator chose otherwise


def launch(sweep: Sweep, settings: Mapping[str, Any]) -> None:
    """Submit what is missing and say how to watch it; with `wait` stay until it is over."""
    if not shutil.which("sbatch"):
        raise UserError("hydra/launcher=slurm needs SLURM's commands (sbatch, squeue) here; run it on a login node")
    if settings["timeout_min"] * 60 <= settings["signal_delay_s"] + EARLY:
        raise UserError(
            f"hydra.launcher.timeout_min={settings['timeout_min']} must be more than a minute longer than "
            f"hydra.launcher.signal_delay_s={settings['signal_delay_s']}: SLURM may send the signal that much early, "
            "and a task would be stopped as soon as it starts"
        )
    if hosts.code_version()["dirty"] and not settings["snapshot"]:
        print("warning: the code differs from its last commit; hydra.launcher.snapshot=true keeps it as it is now")
    record = sweep.record()
    print("\n".join(forecast.totals(sweep)), flush=True)
    began = time.monotonic()
    jobs = submit(sweep, settings)
    ids = ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    none = "what is missing is queued already" if plan.missing(sweep.steps, sweep.env.runs) else "nothing is missing"
    print(f"submitted {len(jobs)} tasks: " + (f"jobs {ids}" if jobs else none))
    print(f"watch:  squeue --me;  python main.py stage=status env.runs={shlex.quote(str(sweep.env.runs))}")
    print(f"record: {record}", flush=True)
    if settings["wait"]:
        wait(sweep)
        print(sweep_text(sweep, time.monotonic() - began))
        raise_for_failures(sweep)


def submit(sweep: Sweep, settings: Mapping[str, Any]) -> list[str]:
    """Submit the tasks with missing steps, parents first, and return their jobs; what is queued already stays so."""
    runs, alive = sweep.env.runs, queued()
    missing = {step.id for step in plan.missing(sweep.steps, runs)}
    job_of = {id: job for id, job in jobs_of(runs).items() if job in alive}
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
    sweep: Sweep, tasks: Sequence[Sequence[Step]], after: str | None, settings: Mapping[str, Any], code: Path
) -> list[str]:
    """Submit one array, whose tasks start when job `after` has succeeded; return the job of each task."""
    folder = sweep.env.runs / FOLDER
    executor = submitit.AutoExecutor(folder / "slurm" / "%j", "slurm", slurm_max_num_timeout=settings["max_requeues"])
    additional = {"requeue": True, **(settings["additional"] or {})}
    if after:
        additional |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
    optional = {"slurm_partition": settings["partition"], "slurm_account": settings["account"]}
    optional |= {"gpus_per_node": settings["gpus_per_task"] or None, "mem_gb": settings["mem_gb"]}
    executor.update_parameters(
        name=sweep.title,
        timeout_min=settings["timeout_min"],
        cpus_per_task=settings["cpus_per_task"],
        stderr_to_stdout=True,
        slurm_signal_delay_s=settings["signal_delay_s"],
        slurm_array_parallelism=settings["array_parallelism"],
        slurm_setup=[*environment(code), *settings["setup"]],
        slurm_teardown=afterwards(settings["max_requeues"]),
        slurm_additional_parameters=additional,
        **{name: value for name, value in optional.items() if value is not None},
    )
    env = replace(sweep.env, threads=sweep.env.threads or settings["cpus_per_task"]).plain()
    try:
        with redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it also raises
            jobs = [executor.submit(Task([asdict(step) for step in task], env)) for task in tasks]
    except submitit.core.utils.FailedJobError as error:
        reasons = [line.replace("sbatch: error: ", "") for line in str(error).splitlines()]
        raise UserError(f"SLURM refuses the tasks: {'; '.join(reasons)}") from None
    ids = [job.job_id for job in jobs]
    with (folder / "jobs.jsonl").open("a") as file:
        for task, id in zip(tasks, ids, strict=True):
            file.write(json.dumps({"job": id, "steps": [step.id for step in task], "when": time.time()}) + "\n")
    return ids


def environment(code: Path) -> list[str]:
    """Return the lines that make Python take this project from `code`, whatever lies where the sweep was started."""
    return [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}", "export PYTHONSAFEPATH=1"]


def code_for(sweep: Sweep, settings: Mapping[str, Any]) -> Path:
    """Return where the tasks find the code: here, or in a copy made now."""
    if not settings["snapshot"]:
        return ROOT
    copy = sweep.env.runs.resolve() / FOLDER / f"code-{sweep.id}-{time.strftime('%Y%m%d-%H%M%S')}"
    for package in ("pruning", "hydra_plugins"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    write_json(copy / "pruning" / hosts.VERSION_FILE, hosts.code_version())
    return copy


def queued() -> set[str]:
    """Return this user's jobs that wait or run, array tasks one by one. Needs no accounting."""
    answer = subprocess.run(["squeue", "--me", "--noheader", "--array", "--format=%i"], capture_output=True, text=True)
    if answer.returncode:
        raise UserError(f"squeue failed: {' '.join(answer.stderr.split())}")
    return set(answer.stdout.split())


def wait(sweep: Sweep) -> None:
    """Show the sweep until all its steps are done, or none of its jobs is left; Ctrl-C leaves the jobs alone."""
    watch, runs = Watch(sweep), sweep.env.runs
    ids = {step.id for step in sweep.steps}
    try:
        while watch.look():
            time.sleep(POLL)
            jobs = {job for id, job in jobs_of(runs).items() if id in ids}
            if not jobs & queued():
                watch.look()
                return
    finally:
        watch.close()


def raise_for_failures(sweep: Sweep) -> None:
    """Say what is not done and why, then raise UserError."""
    found = states(sweep.steps, sweep.env.runs)
    for step in sweep.steps:
        if found[step.id].kind in ("failed", "died"):
            print(failure_text(step, found[step.id].detail, sweep.env.runs), file=sys.stderr)
    failed = sum(state.kind in ("failed", "died") for state in found.values())
    left = sum(state.kind != "done" for state in found.values())
    if left:
        raise UserError(
            f"{left} of {len(sweep.steps)} steps are not done ({failed} failed); "
            "the same command submits only what is missing"
        )
