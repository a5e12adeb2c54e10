"""Every call of a step that touches the disk fails once, or is the last that its process makes.

What is found then is a finished step or one that continues, never a wrong one.
"""

import errno
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning import tracking
from pruning.env import Env
from pruning.errors import UserError
from pruning.execution.execute import run_step
from pruning.execution.saving import NAME
from pruning.execution.stop import StopRequest
from pruning.pipeline import plan
from pruning.runs import Run, Step, claims
from tests.helpers import CI, LONG, lasting, slow
from tests.pipeline.made import composed

Small = tuple[str, ...]
CALLS = ("open", "write", "fsync", "rename", "replace", "link", "unlink", "mkdir", "utime", "listdir", "scandir")
NUMBERS = (errno.ENOSPC, errno.EIO, errno.EROFS)
HOWS = [
    pytest.param("stop", id="stopped"),
    *(pytest.param(n, id=errno.errorcode[n], marks=() if n == errno.ENOSPC else slow) for n in NUMBERS),
]
STRIDE = 3 if CI else 9  # each third moment, another third for each way; all of them take ten minutes a way


class Disk:
    """Counts the calls of `os` and of `open` on files below `root`; call number `at` fails as `how` says."""

    def __init__(self, root: Path, at: int | None, how: int | str) -> None:
        self.root, self.at, self.how, self.count = str(root), at, how, 0
        self.lock = threading.Lock()
        for name in CALLS:
            setattr(os, name, partial(self.call, getattr(os, name), name))
        opened = io.open
        io.open = partial(self.call, opened, "open")  # what Path.open calls

    def call(self, function: Callable[..., Any], name: str, *args: Any, **options: Any) -> Any:
        place = args[0] if args else ""
        ours = isinstance(place, int) if name in ("write", "fsync") else self.root in str(place)
        # of the step, and of what writes its state; the heartbeat's calls come when they like
        if ours and threading.current_thread().name in ("MainThread", NAME):
            with self.lock:
                self.count += 1
                now = self.count == self.at
            if now:
                if self.how == "stop":
                    os._exit(77)
                assert isinstance(self.how, int)
                raise OSError(self.how, os.strerror(self.how))
        return function(*args, **options)


def child(work: Callable[[], object]) -> int:
    """Do the work in a process of its own; return its exit status, 0 or that of an unexpected exception: 99."""
    if (pid := os.fork()) == 0:
        status = 99
        with suppress(BaseException):
            sys.stdout = sys.stderr = io.StringIO()
            work()
            status = 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def make(step: Step, env: Env) -> None:
    run_step(step, env, tracking.Reporter(), StopRequest())


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, small: Small) -> tuple[Step, Path, dict[str, Any]]:
    """A step of two short epochs, where its data are kept, and what it leaves when nothing disturbs it."""
    home = tmp_path_factory.mktemp("faults")
    env = Env.from_config({"runs": str(home / "runs"), "data": str(home / "data"), "device": "cpu"})
    words = ("stage=train", "train.epochs=2", "train.batch_size=24", "train.precision=fp32")
    (step,) = plan.chain(composed(*small, *words), env)
    torch.set_num_threads(1)
    assert child(lambda: make(step, env)) == 0
    return step, home / "data", lasting(home / "runs")


def calls(step: Step, env: Env) -> int:
    """Return how many calls an undisturbed attempt makes."""
    reader, writer = os.pipe()

    def count() -> None:
        disk = Disk(env.runs, None, "stop")
        make(step, env)
        os.writev(writer, [str(disk.count).encode()])

    assert child(count) == 0
    found = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    return found


def disturbed(step: Step, env: Env, at: int, how: int | str) -> None:
    """Make the step with a disk that fails at a moment: what it says of it must be a line for people."""
    claims.BEAT = 0.01  # what the disk refuses to give back is given back at the next beat
    disk = Disk(env.runs, at, how)
    with suppress(UserError):
        make(step, env)
    disk.at = None  # a step that made fewer calls than were counted is not to fail in the calls of this test
    end = time.monotonic() + LONG
    while any(claims.held(path) for path in env.runs.glob("*")):
        assert time.monotonic() < end, "the claim was not given back"
        time.sleep(0.01)


@pytest.mark.parametrize("how", HOWS)
def test_a_disk_that_fails_anywhere_leaves_a_finished_step_or_one_that_continues(
    planned: tuple[Step, Path, dict[str, Any]], tmp_path: Path, how: int | str
) -> None:
    step, cache, wanted = planned
    whole = Env.from_config({"runs": str(tmp_path / "count"), "data": str(cache), "device": "cpu"})
    total = calls(step, whole)
    assert total > 40
    assert lasting(whole.runs) == wanted
    offset = 1 + [*NUMBERS, "stop"].index(how)
    for at in range(offset, total + 1, STRIDE):
        env = Env.from_config({"runs": str(tmp_path / f"{at}"), "data": str(cache), "device": "cpu"})
        ended = child(partial(disturbed, step, env, at, how))
        assert ended in ((0, 77) if how == "stop" else (0,)), f"call {at} of {total}"
        run = Run.for_step(step, env.runs)
        if run.done:
            assert {key: value[1:] for key, value in lasting(env.runs).items()} == {k: v[1:] for k, v in wanted.items()}
        assert child(lambda env=env: make(step, env)) == 0, f"after call {at} of {total}"  # type: ignore[misc]
        assert lasting(env.runs) == wanted, f"after call {at} of {total}"


def test_a_process_that_is_killed_at_a_random_moment_between_them_continues(
    planned: tuple[Step, Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Also inside torch, and inside a call."""
    step, cache, wanted = planned
    env = Env.from_config({"runs": str(tmp_path / "runs"), "data": str(cache), "device": "cpu"})
    for moment in range(1, 40, 4):
        if (pid := os.fork()) == 0:
            signal.setitimer(signal.ITIMER_REAL, moment / 50)
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            with suppress(BaseException):
                sys.stdout = sys.stderr = io.StringIO()
                make(step, env)
            os._exit(0)
        os.waitpid(pid, 0)
    assert child(lambda: make(step, env)) == 0
    assert lasting(env.runs) == wanted
