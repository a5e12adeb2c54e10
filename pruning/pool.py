"""A sweep on this machine: worker processes that share the GPUs or the cores, and never wait for one another.

A failed step (an exception, kill -9, out of memory) costs its dependants, nothing else. Steps that another process
makes (a second terminal with the same sweep) are left to it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pruning.board import Board, Slot
from pruning.runs import Env, Step
from pruning.sweeps import Sweep

ROOT = Path(__file__).resolve().parents[1]  # where workers find this package, from any directory
RETRY = 1.0  # seconds before a step that another process makes is looked at again


def slots(env: Env, per_device: int = 1, workers: int | None = None) -> list[Slot]:
    """Divide this machine: `per_device` workers a GPU; or `workers` on the cores (default: one each `env.threads`).

    On two cores two pinned workers with one thread each do 1.2 times the work of one with two threads; unpinned ones
    with two threads each 0.45 times.
    """
    import torch

    if env.device != "cpu" and torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        if ":" in env.device:
            gpus = [gpus[int(env.device.partition(":")[2])]]
        return [Slot(gpu=gpu) for gpu in gpus for _ in range(per_device)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    count = max(1, min(workers or len(cores) // (env.threads or 1), len(cores)))
    share = len(cores) // count
    return [Slot(cores=tuple(cores[i * share : (i + 1) * share])) for i in range(count)]


class Worker(threading.Thread):
    """Feeds one worker process from the board; starts another one when it dies."""

    def __init__(self, board: Board, slot: Slot) -> None:
        super().__init__(daemon=True)
        self.board, self.slot = board, slot
        self.process: subprocess.Popen[str] | None = None

    def launch(self) -> subprocess.Popen[str]:
        env = self.board.sweep.env
        threads = env.threads or (len(self.slot.cores) or None)
        device = "cpu" if self.slot.gpu is None else "cuda"
        arguments = [
            json.dumps(replace(env, threads=threads, device=device).plain()),
            ",".join(map(str, self.slot.cores)),
            str(os.getpid()),
        ]
        variables = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        if self.slot.gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.slot.gpu
        elif threads:
            variables["OMP_NUM_THREADS"] = str(threads)
        return subprocess.Popen(
            [sys.executable, "-m", "pruning.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
            start_new_session=True,  # Ctrl-C in the terminal is for the pool, which passes it on
        )

    def run(self) -> None:
        try:
            while step := self.board.take(self.slot):
                try:
                    outcome, text = self.ask(step)
                except Exception as error:  # no process can be started, say; the others must not wait for this step
                    outcome, text = "failed", f"{type(error).__name__}: {error}"
                self.board.settle(step, outcome, text)
        finally:
            if self.process and self.process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    self.process.stdin.close()
                self.process.wait()

    def ask(self, step: Step) -> tuple[str, str]:
        """Have the process make `step`; return (outcome, error)."""
        if self.process is None or self.process.poll() is not None:
            self.process = self.launch()
        if self.board.stopping:  # asked for before there was a process to signal
            return "interrupted", ""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(asdict(step)) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return ("interrupted", "") if self.board.stopping else ("failed", ended(self.process.wait()))
        answer = json.loads(line)
        if answer["outcome"] == "busy":
            time.sleep(RETRY)
        if answer["outcome"] == "interrupted" and not self.board.stopping:
            return "failed", "its process was told to stop by a signal from elsewhere"
        return answer["outcome"], answer["error"]

    def signal(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)


def ended(status: int) -> str:
    """Say how a process ended that gave no answer."""
    if status >= 0:
        return f"its process ended with status {status}"
    name = signal.Signals(-status).name
    return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def run(sweep: Sweep, places: Sequence[Slot], watch: Callable[[], object]) -> Board:
    """Make all missing steps of `sweep`; `watch` is called about twice a second. Ctrl-C stops with the state saved."""
    board = Board(sweep)
    todo = len(sweep.steps) - len(board.outcomes)
    workers = [Worker(board, place) for place in places[:todo]]
    for worker in workers:
        worker.start()
    asked = 0
    while any(worker.is_alive() for worker in workers):
        try:
            watch()
            for worker in workers:
                worker.join(timeout=0.5 / len(workers))
        except KeyboardInterrupt:
            asked += 1
            board.stop()
            for worker in workers:
                worker.signal(signal.SIGTERM if asked == 1 else signal.SIGKILL)
    watch()
    return board
