"""What runs in a SLURM job: the steps of a task, and how the job ends so that it comes back if it should."""

import signal
import subprocess
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import submitit

from pruning import tracking
from pruning.env import Env
from pruning.errors import Interrupted
from pruning.execution.execute import run_step
from pruning.execution.stop import StopRequest
from pruning.launch.worker import redirect
from pruning.processes import slurm_job
from pruning.runs import Run, Step, run_of

CHECKS, BETWEEN = 60, 10  # how often, and how many seconds apart, a job that got SIGTERM looks whether SLURM ends it
JOB = "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"  # one task, not the array


@dataclass(frozen=True)
class SlurmTask:
    """Makes its steps, one after the other, in a SLURM job; submitit pickles it."""

    steps: list[dict[str, Any]]
    env: dict[str, Any]
    name: str = ""  # what the queue is to show instead of the name of the array

    def __call__(self) -> None:
        """Make all steps that can be made; SystemExit with status 1 if one failed."""
        tracking.forgive()
        env, reporter, lost = Env.from_config(self.env), tracking.Reporter(), set[str]()
        env.prepare()
        self.rename()
        with StopRequest() as stop:
            for step in map(Step.from_json, self.steps):
                if lost & {run_of(ref) for ref in step.references}:
                    lost.add(step.id)
                    continue
                redirect(Run.for_step(step, env.runs).log)
                try:
                    run_step(step, env, reporter, stop)
                except Interrupted:
                    leave(stop)
                except Exception:  # one cell's failure is not that of the others in this job
                    traceback.print_exc()
                    lost.add(step.id)
        if lost:
            raise SystemExit(1)

    def rename(self) -> None:
        """Have the queue show what this task of an array makes; where that is not allowed, it does not."""
        if self.name and (job := slurm_job()):
            command = ["scontrol", "update", f"JobId={job}", f"JobName={self.name}"]
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(command, capture_output=True, timeout=60)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit's handler before it requeues the job: the state is on the disk already."""
        return submitit.helpers.DelayedSubmission(self)


def leave(stop: StopRequest) -> None:
    """End the process after its state is saved, so that the job comes back if it should."""
    if stop.signal == signal.SIGUSR2:  # time-out, or preemption with notice: submitit requeues the job and exits
        stop.before[signal.SIGUSR2](signal.SIGUSR2, None)
    raise SystemExit(128 + (stop.signal or 0))


def afterwards(requeues: int) -> list[str]:
    """Return the lines of the job's script for what Python cannot do: it may be gone before it can catch a signal."""
    return [
        "status=$?",
        f"if [ $status = {128 + signal.SIGUSR2} ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt {requeues} ]; then",
        f"  scontrol requeue {JOB}",
        "fi",
        # SIGTERM comes with preemption and requeueing too, and a job that ends by itself then does not come back; so
        # it waits to be ended, unless SLURM says that nothing is to become of it but what somebody's signal meant
        f"if [ $status = {128 + signal.SIGTERM} ]; then",
        f"  for _ in $(seq {CHECKS}); do",
        f'    case "$(scontrol --oneliner show job {JOB})" in',
        '      *" PreemptTime="[0-9]*) ;;',  # shown only if it has one; some versions say None
        '      *" JobState=RUNNING "*) break ;;',
        "    esac",
        f"    sleep {BETWEEN}",
        "  done",
        "fi",
        "exit $status",
    ]
