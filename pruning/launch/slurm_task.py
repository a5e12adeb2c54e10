"""What runs in a SLURM job: the steps of a task, and how the job ends so that it comes back if it should."""

import signal
from dataclasses import dataclass
from typing import Any

import submitit

from pruning import tracking
from pruning.env import Env
from pruning.errors import Interrupted
from pruning.execution.execute import run_step
from pruning.execution.stop import StopRequest
from pruning.launch.worker import redirect
from pruning.runs import Run, Step

GRACE = 600  # seconds that a job waits for its end after SIGTERM


@dataclass(frozen=True)
class SlurmTask:
    """Makes its steps, one after the other, in a SLURM job; submitit pickles it."""

    steps: list[dict[str, Any]]
    env: dict[str, Any]

    def __call__(self) -> None:
        env, reporter = Env.from_config(self.env), tracking.Reporter()
        env.prepare()
        with StopRequest() as stop:
            try:
                for step in map(Step.from_json, self.steps):
                    redirect(Run.for_step(step, env.runs).log)
                    run_step(step, env, reporter, stop)
            except Interrupted:
                leave(stop)

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
        "  scontrol requeue $SLURM_JOB_ID",
        "fi",
        # SIGTERM comes with scancel, but also with preemption, and a job that ends by itself then does not come back
        f"if [ $status = {128 + signal.SIGTERM} ]; then sleep {GRACE}; fi",
        "exit $status",
    ]
