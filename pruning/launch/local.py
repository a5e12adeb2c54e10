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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning.errors import Interrupted
from pruning.launch.machine import divide, hint
from pruning.launch.scheduler import Outcome, Resources, Scheduler
from pruning.pipeline import forecast, redo
from pruning.pipeline.sweep import Sweep
from pruning.pipeline.watch import LiveStatus, raise_for_failures, sweep_text
from pruning.runs import Step
from pruning.settings import Settings, setting

# Ctrl-C in the terminal is for this process, which passes it on
APART: dict[str, Any] = (
    {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    if os.name == "nt"
    else {"start_new_session": True}
)
SOFTLY = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)  # on Windows SIGTERM would save nothing
FIRMLY = getattr(signal, "SIGKILL", signal.SIGTERM)
ROOT = Path(__file__).resolve().parents[2]  # where workers find this package, from any directory
RETRY = 1.0  # seconds before a step that another process makes is looked at again


@dataclass(frozen=True, kw_only=True)
class LocalSettings(Settings):
    """The node hydra.launcher of hydra/launcher=local."""

    per_device: int = setting(1, least=1)
    workers: int | None = setting(None, least=1)


def launch(sweep: Sweep, settings: LocalSettings, ended: Callable[[Sweep], object] = lambda _: None) -> None:
    """Make all missing steps of `sweep` here, show how far it is, and what came out; UserError if a step failed.

    `ended` is called with the sweep when it is over, whether steps failed or not, but not if it was stopped.
    """
    resources = divide(sweep.env, settings.per_device, settings.workers)
    redo.announce(sweep.redo, sweep.steps, sweep.env.runs)
    sweep.record()
    print("\n".join(forecast.totals(sweep)), flush=True)
    print(hint(resources), end="", flush=True)
    began, live = time.monotonic(), LiveStatus(sweep)
    try:
        scheduler = run(sweep, resources, live.refresh)
    finally:
        live.close()
    print(sweep_text(sweep, time.monotonic() - began), flush=True)
    if len(resources) > 1 and scheduler.idle is not None:
        print(f"{len(resources)} workers, which had nothing to do for {scheduler.idle:.0%} of their time", flush=True)
    if not scheduler.stopping:
        ended(sweep)
    if scheduler.errors or not scheduler.stopping:
        raise_for_failures(sweep, scheduler.errors, "the same command makes only what is missing")
    if scheduler.stopping:
        print("stopped, with the state saved; the same command continues")
        raise Interrupted


def again(sweep: Sweep) -> list[str]:
    """Return what `launch` prints of a sweep that is done."""
    return [*forecast.totals(sweep), sweep_text(sweep, 0.0)]


class Feeder(threading.Thread):
    """Feeds one worker process from the scheduler; starts another one when it dies."""

    def __init__(self, scheduler: Scheduler, resources: Resources) -> None:
        super().__init__(daemon=True)
        self.scheduler, self.resources = scheduler, resources
        self.process: subprocess.Popen[str] | None = None
        self.busy = 0.0  # seconds

    def launch(self) -> subprocess.Popen[str]:
        env = self.scheduler.sweep.env
        threads = env.threads or max(1, len(self.resources.cores))
        device = "cpu" if self.resources.gpu is None else "cuda"
        arguments = [
            json.dumps(replace(env, threads=threads, device=device).to_json()),
            ",".join(map(str, self.resources.cores)),
            str(os.getpid()),
        ]
        variables = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        if self.resources.gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.resources.gpu
        variables["OMP_NUM_THREADS"] = str(threads)
        return subprocess.Popen(
            [sys.executable, "-m", "pruning.launch.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
            **APART,
        )

    def run(self) -> None:
        try:
            while step := self.scheduler.take(self.resources):
                began = time.monotonic()
                try:
                    outcome, text = self.ask(step)
                except Exception as error:  # such as: no process can be started; the others must not wait for this step
                    outcome, text = Outcome.FAILED, f"{type(error).__name__}: {error}"
                self.busy += time.monotonic() - began
                self.scheduler.settle(step, outcome, text)
        finally:
            if self.process and self.process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    self.process.stdin.close()
                self.process.wait()

    def ask(self, step: Step) -> tuple[Outcome, str]:
        """Have the process make `step`; return (outcome, error)."""
        if self.process is None or self.process.poll() is not None:
            self.process = self.launch()
        if self.scheduler.stopping:  # asked for before there was a process to signal
            return Outcome.INTERRUPTED, ""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps(step.to_json()) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            if self.scheduler.stopping:
                return Outcome.INTERRUPTED, ""
            return Outcome.FAILED, ended(self.process.wait())
        answer = json.loads(line)
        outcome = Outcome(answer["outcome"])
        if outcome == Outcome.BUSY:
            time.sleep(RETRY)
        if outcome == Outcome.INTERRUPTED and not self.scheduler.stopping:
            return Outcome.FAILED, "its process was stopped by a signal from outside"
        return outcome, answer["error"]

    def signal(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)


def ended(status: int) -> str:
    """Return in words how a process ended that gave no answer."""
    if status >= 0:
        return f"its process ended with status {status}"
    name = signal.Signals(-status).name
    return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def run(sweep: Sweep, resources: Sequence[Resources], refresh: Callable[[], object]) -> Scheduler:
    """Make all missing steps; `refresh` is called about twice a second. Ctrl-C stops with the state saved."""
    scheduler = Scheduler(sweep, len(resources), forecast.costs(sweep.steps, sweep.env.runs))
    began = time.monotonic()
    todo = len(sweep.steps) - len(scheduler.outcomes)
    feeders = [Feeder(scheduler, share) for share in resources[:todo]]
    for feeder in feeders:
        feeder.start()
    asked = 0
    while any(feeder.is_alive() for feeder in feeders):
        try:
            refresh()
            for feeder in feeders:
                feeder.join(timeout=0.5 / len(feeders))
        except KeyboardInterrupt:
            asked += 1
            scheduler.stop()
            for feeder in feeders:
                feeder.signal(SOFTLY if asked == 1 else FIRMLY)
    if feeders:
        scheduler.idle = max(0.0, 1 - sum(f.busy for f in feeders) / (len(resources) * (time.monotonic() - began)))
    refresh()
    return scheduler
