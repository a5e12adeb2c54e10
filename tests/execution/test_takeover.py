"""A process that was stopped for long on what looks like another machine, overtaken, and then continued."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import ROOT, Command, Running, Server
from tests.helpers import by_stage, epochs, lasting, quick, rows, slow
from tests.namespaces import privileged

Small = tuple[str, ...]
EPOCHS = 20
OLD = 1000.0  # seconds; more than any patience
MADE = ("config.json", "logits.safetensors", "metrics.jsonl", "model.safetensors", "picture.png", "result.json")
UTS = ("--uts",)
PID = ("--uts", "--pid", "--fork", "--mount-proc")

LATE = """
import os, pathlib, runpy, signal, sys
from pruning import checkpoints, report
from pruning.execution import recorder, saving
_, owner, name, last, wanted, *sys.argv = sys.argv
owner = eval(owner)
real, calls = getattr(owner, name), []
def late(*args, **options):
    calls.extend([0] * (wanted in str(args)))
    if len(calls) == int(last):
        calls.append(0)
        os.kill(os.getpid(), signal.SIGSTOP)
    return real(*args, **options)
setattr(owner, name, late)
runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytestmark = privileged


@pytest.fixture(scope="module")
def training(small: Small) -> Small:
    return (*small, "stage=train", f"train.epochs={EPOCHS}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, server: Server, training: Small) -> Path:
    command = Command(tmp_path_factory.mktemp("undisturbed"), server)
    done = command(*training)
    assert (done.returncode, done.stderr) == (0, "")
    return command.runs


@contextmanager
def elsewhere(command: Command, training: Small, flags: tuple[str, ...], *late: str) -> Iterator[Running]:
    """Start the training in new namespaces (`flags` of unshare), where no process of ours is seen to live.

    With `late` it stops itself: there, the so-manieth time, where the path has that name.
    """
    out, err = (command.home / f"elsewhere.{name}" for name in ("out", "err"))
    places = [f"env.runs={command.runs}", f"env.data={command.home / 'data'}", "env.device=cpu", "env.threads=1"]
    program = ("-c", LATE, *late) if late else ()
    argv = [sys.executable, *program, str(ROOT / "main.py"), *places, *training]
    shell = ["unshare", *flags, "sh", "-c", 'hostname other && exec "$@"', "sh", *argv]
    with out.open("w") as o, err.open("w") as e:
        process = subprocess.Popen(shell, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=o, stderr=e)
    running = Running(argv, process.pid, out, err, process.poll)
    try:
        if "--fork" in flags:  # the training is the child of what was started
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            running.until(lambda: children.read_text().split())
            running.pid = int(children.read_text().split()[0])
        yield running
    finally:
        if process.poll() is None:
            running.kill(signal.SIGKILL)
            process.wait()


def folder(command: Command) -> Path:
    (found,) = command.runs.glob("train-*")
    return found


def stopped(running: Running) -> bool:
    return Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def stop(running: Running, command: Command, more_than: int) -> int:
    """Stop the whole process when more than so many epochs are on the disk; return how many are."""
    running.until(lambda: epochs(command.runs) > more_than)
    running.kill(signal.SIGSTOP)
    running.until(lambda: stopped(running))
    made = epochs(command.runs)
    assert made < EPOCHS, "it was too fast to be stopped"
    return made


def beat(command: Command, number: int, ago: float = 0.0) -> None:
    """Have the last heartbeat of a stopped process be so many seconds ago."""
    then = time.time() - ago
    os.utime(folder(command) / f"claim-{number}", (then, then))


def kept(command: Command) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the times of what was made."""
    paths = [folder(command) / name for name in MADE]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def takes(running: Running, command: Command, undisturbed: Path) -> None:
    """Assert that who was overtaken ends well, and leaves what is there as if it had not been."""
    before = kept(command)
    running.kill(signal.SIGCONT)
    has_taken(running)
    assert kept(command) == before
    alike(command, undisturbed)


def has_taken(running: Running) -> None:
    ended = running.wait()
    assert ended.returncode == 0, running.printed()
    assert "; what it makes is taken" in running.printed()
    assert "Traceback" not in running.printed()


def alike(command: Command, undisturbed: Path) -> None:
    assert lasting(command.runs) == lasting(undisturbed)
    assert [row["epoch"] for row in rows(by_stage(command.runs)["train"])] == list(range(1, EPOCHS + 1))
    files = {path.name for path in folder(command).iterdir()}
    assert files == {*MADE}


@slow
@pytest.mark.parametrize("flags", [UTS, PID], ids=["uts", "pid"])
def test_who_was_stopped_and_overtaken_takes_what_was_finished_meanwhile(
    command: Command, training: Small, undisturbed: Path, flags: tuple[str, ...]
) -> None:
    with elsewhere(command, training, flags) as first:
        stop(first, command, 2)
        beat(command, 1, OLD)
        done = command(*training)
        assert (done.returncode, done.stderr) == (0, "")
        takes(first, command, undisturbed)


@slow
@pytest.mark.parametrize("flags", [UTS, PID], ids=["uts", "pid"])
def test_who_was_overtaken_waits_for_who_is_not_done(
    command: Command, training: Small, undisturbed: Path, flags: tuple[str, ...]
) -> None:
    def waits() -> bool:
        beat(command, 2)  # who is stopped in this test is only slow
        return "waiting, it is made by process" in first.printed()

    with elsewhere(command, training, flags) as first:
        made = stop(first, command, 2)
        beat(command, 1, OLD)
        second = command.start(*training)
        stop(second, command, made)
        first.kill(signal.SIGCONT)
        first.until(waits)
        assert f"was taken over by process {second.pid}" in first.printed()
        second.kill(signal.SIGCONT)
        done = second.wait()
        assert (done.returncode, done.stderr) == (0, "")
        has_taken(first)
        alike(command, undisturbed)


@slow
@pytest.mark.parametrize("flags", [UTS, PID], ids=["uts", "pid"])
def test_who_was_overtaken_takes_what_a_third_made_after_the_second_was_killed(
    command: Command, training: Small, undisturbed: Path, flags: tuple[str, ...]
) -> None:
    with elsewhere(command, training, flags) as first:
        made = stop(first, command, 2)
        beat(command, 1, OLD)
        second = command.start(*training)
        stop(second, command, made)
        second.kill(signal.SIGKILL)
        assert second.wait().returncode == -signal.SIGKILL
        done = command(*training)
        assert (done.returncode, done.stderr) == (0, "")
        takes(first, command, undisturbed)


@slow
def test_who_was_overtaken_goes_on_itself_when_the_other_is_gone(
    command: Command, training: Small, undisturbed: Path
) -> None:
    with elsewhere(command, training, UTS) as first:
        made = stop(first, command, 2)
        beat(command, 1, OLD)
        second = command.start(*training)
        stop(second, command, made)
        second.kill(signal.SIGKILL)
        second.wait()
        beat(command, 2, OLD)
        first.kill(signal.SIGCONT)
        assert first.wait().returncode == 0, first.printed()
        alike(command, undisturbed)


PICTURE = "sys.modules['pruning.report.picture']"
RUN = "sys.modules['pruning.runs.run']"
MOMENTS = {  # where the claim was checked, and what was to be written, or only renamed, is not
    "the config": (RUN, "write_json", "1", "config.json"),
    "a row": ("recorder", "line", "4", "epoch"),
    "the state": ("saving", "write_whole", "4", "resume.pt"),
    "the rename of the state": ("pathlib.Path", "replace", "4", "resume.pt"),
    "the model": ("checkpoints.Checkpoint", "save", "1", "model.safetensors"),
    "the picture": (PICTURE, "write_whole", "1", "picture.png"),
    **{f"the rename of {name}": ("pathlib.Path", "replace", "1", name) for name in (*MADE[:2], *MADE[3:5])},
    "the result": ("recorder", "publish", "1", "result.json"),
}


@pytest.mark.parametrize("moment", quick("the result", of=MOMENTS))
def test_what_comes_late_changes_nothing(command: Command, training: Small, undisturbed: Path, moment: str) -> None:
    with elsewhere(command, training, UTS, *MOMENTS[moment]) as first:
        first.until(lambda: stopped(first))
        beat(command, 1, OLD)
        done = command(*training)
        assert (done.returncode, done.stderr) == (0, "")
        before = kept(command)
        first.kill(signal.SIGCONT)
        has_taken(first)
        assert kept(command) == before
        alike(command, undisturbed)
