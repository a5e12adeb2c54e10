"""A worker process: makes the steps that come in on stdin, one JSON line each, and answers each with one line.

What a step prints goes to `log.txt` in its directory, also what a crash prints. Started by `local` as
`python -m pruning.launch.worker ENV_JSON CPUS PID`, where PID is that of the process that started it.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TextIO

from pruning import tracking
from pruning.env import Env
from pruning.errors import Interrupted, UserError
from pruning.execution.execute import last_line, try_run_step
from pruning.execution.stop import StopRequest
from pruning.files import cannot_write
from pruning.launch.scheduler import Outcome
from pruning.runs import Run, Step

PR_SET_PDEATHSIG = 1


def serve(requests: TextIO, answers: TextIO, env: Env) -> None:
    """Answer each step with done, busy (another process makes it), failed or interrupted."""
    reporter = tracking.Reporter()
    for line in requests:
        step = Step.from_json(json.loads(line))
        run, error_text, redirected = Run.for_step(step, env.runs), "", False
        with StopRequest() as stop:
            try:
                redirected = redirect(run.log)
                outcome = Outcome.DONE if try_run_step(step, env, reporter, stop) else Outcome.BUSY
            except Interrupted:
                outcome = Outcome.INTERRUPTED
            except Exception as error:  # one step's failure is not the worker's
                if redirected:  # else it would go to the log of the step before
                    traceback.print_exc()
                outcome, error_text = Outcome.FAILED, last_line(error)
        sys.stdout.flush()
        try:
            print(json.dumps({"id": step.id, "outcome": outcome, "error": error_text}), file=answers, flush=True)
        except BrokenPipeError:  # the parent has ended
            return


def redirect(log: Path) -> bool:
    """Send this process's output, native crashes included, to the end of `log`; UserError if it cannot be written."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        # without waiting, should somebody have put a FIFO there
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise UserError(f"{cannot_write(log, error)}, with env.runs=DIR") from None
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    return True


def main(env_json: str, cpus: str, parent: str) -> None:
    """Prepare this process (environment, cores, end with its parent), then serve."""
    if sys.platform == "linux":  # stop, with the state saved, when the parent is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it was killed while this process started
            return
        if cpus:
            os.sched_setaffinity(0, map(int, cpus.split(",")))
    env = Env.from_config(json.loads(env_json))
    env.prepare()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may be taken for an answer
    tracking.forgive()
    serve(sys.stdin, answers, env)


if __name__ == "__main__":
    main(*sys.argv[1:])
