"""A worker process: makes the steps that come in on stdin, one JSON line each, and answers each with one line.

What a step prints goes to `log.txt` in its directory, also what a crash prints. Started by `pool` as
`python -m pruning.worker ENV_JSON CPUS PID`, where PID is the pool's.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TextIO

from pruning import execute, hosts, tracking
from pruning.errors import UserError
from pruning.runs import Env, Step
from pruning.training import Interrupted

PR_SET_PDEATHSIG = 1


def serve(requests: TextIO, answers: TextIO, env: Env) -> None:
    """Answer each step with done, busy (another process makes it), failed or interrupted."""
    reporter = tracking.Reporter()
    for line in requests:
        step = Step(**json.loads(line))
        with execute.Stop() as stop:
            outcome = {"id": step.id, "outcome": "done", "error": ""}
            try:
                redirect(env.runs / step.name / "log.txt")
                if execute.make_unless_claimed(step, env, reporter, stop) is None:
                    outcome["outcome"] = "busy"
            except Interrupted:
                outcome["outcome"] = "interrupted"
            except Exception as error:  # one step's failure is not the worker's
                if (env.runs / step.name).is_dir():  # else there is no log
                    traceback.print_exc()
                outcome |= {"outcome": "failed", "error": execute.last_line(error)}
        sys.stdout.flush()
        try:
            print(json.dumps(outcome), file=answers, flush=True)
        except BrokenPipeError:  # the pool is no more
            return


def redirect(log: Path) -> None:
    """Send this process's output, native crashes included, to the end of `log`."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        raise UserError(f"cannot write {log}: {error.strerror}") from None
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def main(env_json: str, cpus: str, pool: str) -> None:
    if sys.platform == "linux":  # stop, with the state saved, when the pool is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(pool):  # it was killed while this process started
            return
        if cpus:
            os.sched_setaffinity(0, map(int, cpus.split(",")))
    env = Env.of(json.loads(env_json))
    hosts.prepare(env.threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may be taken for an answer
    serve(sys.stdin, answers, env)


if __name__ == "__main__":
    main(*sys.argv[1:])
