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
from tests.helpers import by_stage, epochs, lasting, rows
from tests.namespaces import privileged

Small = tuple[str, ...]
EPOCHS = 20
OLD = 1000.0  # seconds; more than any patience
MADE = ("metrics.jsonl", "model.safetensors", "result.json")
UTS = ("--uts",)
PID = ("--uts", "--pid", "--fork", "--mount-proc")

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
def elsewhere(command: Command, training: Small, flags: tuple[str, ...]) -> Iterator[Running]:
    """Start the training in new namespaces (`flags` of unshare), where no process of ours is seen to live."""
    out, err = (command.home / f"elsewhere.{name}" for name in ("out", "err"))
    places = [f"env.runs={command.runs}", f"env.data={command.home / 'data'}", "env.device=cpu", "env.threads=1"]
    argv = [sys.executable, str(ROOT / "main.py"), *places, *training]
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
    return by_stage(command.runs)["train"].path


def stop(running: Running, command: Command, more_than: int) -> int:
    """Stop the whole process when more than so many epochs are on the disk; return how many are."""
    running.until(lambda: epochs(command.runs) > more_than)
    running.kill(signal.SIGSTOP)
    running.until(lambda: Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    made = epochs(command.runs)
    assert made < EPOCHS, "it was too fast to be stopped"
    return made


def silence(command: Command, number: int) -> None:
    """Have the last heartbeat of a stopped process be long ago."""
    then = time.time() - OLD
    os.utime(folder(command) / f"claim-{number}", (then, then))


def kept(command: Command) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the times of what was made."""
    paths = [folder(command) / name for name in MADE]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def takes(running: Running, command: Command, undisturbed: Path) -> None:
    """Assert that who was overtaken ends well, and leaves what is there as if it had not been."""
    before = kept(command)
    running.kill(signal.SIGCONT)
    ended = running.wait()
    assert ended.returncode == 0, running.printed()
    assert "; what it makes is taken" in running.printed()
    assert "Traceback" not in running.printed()
    assert kept(command) == before
    alike(command, undisturbed)


def alike(command: Command, undisturbed: Path) -> None:
    assert lasting(command.runs) == lasting(undisturbed)
    assert [row["epoch"] for row in rows(by_stage(command.runs)["train"])] == list(range(1, EPOCHS + 1))
    files = {path.name for path in folder(command).iterdir()}
    assert files == {"config.json", "picture.png", *MADE}


@pytest.mark.parametrize("flags", [UTS, PID], ids=["uts", "pid"])
def test_who_was_stopped_and_overtaken_takes_what_was_finished_meanwhile(
    command: Command, training: Small, undisturbed: Path, flags: tuple[str, ...]
) -> None:
    with elsewhere(command, training, flags) as first:
        stop(first, command, 2)
        silence(command, 1)
        done = command(*training)
        assert (done.returncode, done.stderr) == (0, "")
        takes(first, command, undisturbed)
