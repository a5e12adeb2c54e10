"""Run main.py as a process of its own, either cold or forked from a server that has imported torch already.

A fork takes half a second where a cold start takes five, and gets killed, signalled and waited for all the same.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.helpers import LONG

ROOT = Path(__file__).parents[1]


@dataclass
class Running:
    """A command under way; its output is kept in files, so nothing blocks on a pipe."""

    args: list[str]
    pid: int
    out: Path
    err: Path
    status: Callable[[], int | None]

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def printed(self) -> str:
        return self.out.read_text() + self.err.read_text()

    def until(self, reached: Callable[[], Any]) -> None:
        """Return as soon as `reached()`; fail if the command ends first."""
        end = time.monotonic() + LONG
        while not reached():
            assert self.status() is None, f"ended too early:\n{self.printed()}"
            assert time.monotonic() < end, f"not reached:\n{self.printed()}"
            time.sleep(0.002)

    def wait(self) -> subprocess.CompletedProcess[str]:
        end = time.monotonic() + LONG
        while (status := self.status()) is None:
            if time.monotonic() > end:
                self.kill(signal.SIGKILL)
                raise AssertionError(f"still running:\n{self.printed()}")
            time.sleep(0.005)
        return subprocess.CompletedProcess(self.args, status, self.out.read_text(), self.err.read_text())


class Server:
    """The parent of warm commands."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.commands"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin
        assert self.process.stdout
        self.requests, self.answers = self.process.stdin, self.process.stdout
        self.known: dict[int, int] = {}

    def ask(self, request: dict[str, Any]) -> Any:
        print(json.dumps(request), file=self.requests, flush=True)
        return json.loads(self.answers.readline())

    def status(self, pid: int) -> int | None:
        """Return the exit status, minus the signal that ended it, or None while it runs."""
        if pid not in self.known and (status := self.ask({"wait": pid})) is not None:
            self.known[pid] = status
        return self.known.get(pid)

    def close(self) -> None:
        self.requests.close()
        self.process.wait()
        self.answers.close()


@dataclass
class Command:
    """Starts main.py with the runs, the data and the output of one test in `home`."""

    home: Path
    server: Server
    count: int = 0

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    def start(
        self, *overrides: str, cold: bool = False, runs: Path | None = None, place: Path = ROOT, **environ: str
    ) -> Running:
        self.count += 1
        out, err = (self.home / f"{self.count}.{name}" for name in ("out", "err"))
        places = [f"env.runs={runs or self.runs}", f"env.data={self.home / 'data'}"]
        args = [*places, "env.device=cpu", "env.threads=1", *overrides]
        env = {k: v for k, v in (os.environ | environ).items() if v}
        if cold:
            with out.open("w") as o, err.open("w") as e:
                argv = [sys.executable, str(ROOT / "main.py"), *args]
                interruptible = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
                process = subprocess.Popen(
                    argv, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=o, stderr=e, preexec_fn=interruptible
                )
            return Running(args, process.pid, out, err, process.poll)
        pid = self.server.ask({"args": args, "env": env, "out": str(out), "err": str(err), "place": str(place)})
        return Running(args, pid, out, err, lambda: self.server.status(pid))

    def __call__(self, *overrides: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.start(*overrides, **options).wait()


def serve() -> None:
    """Fork a child for each line of stdin that says how; answer how it ended when asked."""
    import hydra._internal.utils  # noqa: F401  (all that is slow to import, less wandb)
    import matplotlib.pyplot  # noqa: F401

    import pruning.execution.execute  # noqa: F401

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif not (answer := os.fork()):
            become(request)
            return
        print(json.dumps(answer), flush=True)


def become(request: dict[str, Any]) -> None:
    """Turn this fork into `python main.py args...`."""
    for number, path in enumerate((os.devnull, request["out"], request["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY), number)
    os.chdir(request["place"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [str(ROOT / "main.py"), *request["args"]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    serve()


def undisturbed_runs(folder: Path, server: Server, *overrides: str) -> Path:
    """Give a command that ends well, below `folder`; return the directory of its runs."""
    command = Command(folder, server)
    done = command(*overrides)
    assert (done.returncode, done.stderr) == (0, "")
    return command.runs
