import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pruning.errors import UserError
from pruning.files import CannotWriteError
from pruning.runs import claims
from pruning.runs.claims import PATIENCE
from tests.commands import ROOT
from tests.helpers import LONG, slow
from tests.namespaces import NOBODY, inside, privileged
from tests.runs.steps import taken

HERE = claims.identity()

RACER = """
import sys, time
from pathlib import Path
from pruning.runs import claims
folder, claim = Path(sys.argv[1]), None
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("won" if claim else "lost", flush=True)
"""
TAKE = "claim = claims.take(folder)"


class Racer:
    """A process of its own that takes claims on request."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", RACER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def send(self, line: str) -> None:
        assert self.process.stdin
        print(line, file=self.process.stdin, flush=True)

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.send(line)
        return self.answer()

    def kill(self) -> None:
        with self.process:  # which closes the pipes and waits
            self.process.kill()


@contextmanager
def racers(folder: Path, count: int) -> Iterator[list[Racer]]:
    with ExitStack() as stack:
        started = [Racer(folder) for _ in range(count)]
        for racer in started:
            stack.callback(racer.kill)
        assert [racer.answer() for racer in started] == ["ready"] * count
        yield started


def race(runners: list[Racer]) -> list[Racer]:
    """Let all take at the same moment; return the winners."""
    at = time.monotonic() + 0.05
    for racer in runners:
        racer.send(f"all(iter(lambda: time.monotonic() < {at}, False)); {TAKE}")
    return [racer for racer in runners if racer.answer() == "won"]


def elsewhere(folder: Path, age: float, **changes: object) -> Path:
    """Write a claim of a process on another machine, with its last heartbeat `age` seconds ago."""
    folder.mkdir(exist_ok=True)
    path = folder / "claim-1"
    path.write_text(json.dumps(HERE | {"host": "elsewhere"} | changes))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


@slow
def test_one_of_all_that_race_wins_and_one_follows_each_winner(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "step"
    with racers(folder, 6) as running:
        left = list(running)
        for number in range(1, 13):
            (winner,) = race(left)
            assert (claims.newest(folder), (claims.held(folder) or {}).get("pid")) == (number, winner.process.pid)
            assert race([racer for racer in left if racer is not winner]) == []
            if number % 2:
                assert winner.ask("claim.release()") == "won"
            else:
                winner.kill()  # the next round finds it gone at once, not after PATIENCE
                left.remove(winner)
            assert claims.abandoned(folder) == (number % 2 == 0)
        assert claims.held(folder) is None
    assert {path.name for path in folder.iterdir()} == {f"claim-{i}" for i in range(1, 13)}


def test_a_stopped_process_still_holds_and_a_zombie_or_another_process_of_its_number_does_not(tmp_path: Path) -> None:
    with racers(tmp_path, 1) as (racer,):
        pid = racer.process.pid
        assert racer.ask(TAKE) == "won"
        os.kill(pid, signal.SIGSTOP)
        assert claims.take(tmp_path) is None
        os.kill(pid, signal.SIGCONT)
        assert claims.take(tmp_path) is None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: " Z " in Path(f"/proc/{pid}/stat").read_text())
        assert claims.started(pid) is None
        assert taken(tmp_path).number == 2
    path = elsewhere(tmp_path / "reused", 0, host=HERE["host"], started="1")  # our pid, but started at another time
    assert claims.stale(path, time.time())
    assert claims.held(path.parent) is None


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(("age", "free"), [(0, False), (PATIENCE - 5, False), (PATIENCE + 5, True)])
def test_a_holder_that_cannot_be_seen_is_gone_after_patience(tmp_path: Path, age: float, free: bool) -> None:
    for key in ("host", "boot", "processes"):
        elsewhere(tmp_path / key, age, **{"host": HERE["host"], key: "other", "pid": 2**22 + 1, "started": "1"})
        claim = claims.take(tmp_path / key)
        assert (claim is not None, claims.newest(tmp_path / key)) == (free, 1 + free)
        assert list(tmp_path.glob("*/.claim-*")) == []
    for name, torn in (("none", ""), ("part", '{"host": "a'), ("zero", "\0" * 64)):  # after the crash of a machine
        path = elsewhere(tmp_path / name, age)
        path.write_text(torn)
        os.utime(path, (time.time() - age,) * 2)
        assert (claims.describe(path.parent), claims.abandoned(path.parent)) == ("nobody", free)
        assert (claims.take(path.parent) is not None) == free


def test_the_holder_is_described(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert (claims.newest(folder), claims.held(folder), claims.describe(folder)) == (0, None, "nobody")
        assert not claims.abandoned(folder)
    elsewhere(tmp_path, 7, pid=42, job="1234")
    assert 6 < (claims.held(tmp_path) or {})["beat"] < PATIENCE
    assert claims.describe(tmp_path) == "process 42 on elsewhere (SLURM job 1234)"
    elsewhere(tmp_path, 0, pid=42, job=None)
    assert claims.describe(tmp_path) == "process 42 on elsewhere"
    elsewhere(tmp_path, 2 * PATIENCE)
    found = claims.held(tmp_path), claims.describe(tmp_path), claims.abandoned(tmp_path)
    assert found == (None, "nobody", True)


def test_a_job_is_named_as_squeue_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (names := ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")):
        monkeypatch.delenv(name, raising=False)
    assert claims.slurm_job() is None
    for name, value, job in zip(names, "973", ("9", "9", "7_3"), strict=True):
        monkeypatch.setenv(name, value)
        assert claims.identity()["job"] == job


def test_taking_makes_the_folder_and_forgetting_removes_all(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for number in (1, 2):
        claim = taken(folder)
        assert claim.path == folder / f"claim-{number}"
        assert claims.describe(folder).startswith(f"process {os.getpid()} on ")
        assert claims.take(folder) is None  # not even this process twice
        claim.check()
        claim.release()
        assert claims.held(folder) is None
    assert sorted(path.name for path in folder.iterdir()) == ["claim-1", "claim-2"]
    claim = taken(folder)
    (folder / ".claim-0123abcd").write_text("left by a killed process")
    (folder / "result.json").write_text("{}")
    claim.forget()
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_who_lost_the_claim_is_stopped(tmp_path: Path) -> None:
    claim = taken(tmp_path)
    claim.check()
    elsewhere(tmp_path, 2 * PATIENCE)  # as others see us when we hang
    with racers(tmp_path, 1) as (racer,):
        assert racer.ask(TAKE) == "won"
        text = f"{tmp_path.name} was taken over by process {racer.process.pid} on {HERE['host']}"
        with pytest.raises(claims.LostClaim, match=f"^{re.escape(text)}"):
            claim.check()
        claim.release()  # which takes nothing from the new holder
        assert claims.take(tmp_path) is None
        assert racer.ask("claim.check()") == "won"


def test_the_heart_beats_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.02)
    claim = taken(tmp_path)

    def wait_for_a_beat() -> None:
        os.utime(claim.path, (1000, 1000))
        wait_until(lambda: claim.path.stat().st_mtime != 1000)

    wait_for_a_beat()
    content = claim.path.read_bytes()
    claim.path.unlink()
    time.sleep(0.1)  # the disk is away for some beats
    claim.path.write_bytes(content)
    wait_for_a_beat()
    claim.release()
    time.sleep(0.05)
    os.utime(claim.path, (1000, 1000))
    time.sleep(0.1)
    assert claim.path.stat().st_mtime == 1000


def test_the_holder_may_forget_while_another_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, newest = taken(tmp_path), claims.newest

    def meanwhile(folder: Path) -> int:
        number = newest(folder)
        claim.forget()
        return number

    monkeypatch.setattr(claims, "newest", meanwhile)
    assert claims.take(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("I am a file")
    for place, reason in [("file/step", "Not a directory"), ("file", "File exists")]:
        with pytest.raises(UserError, match=f"^cannot write {tmp_path / place}: {reason}"):
            claims.take(tmp_path / place)


# who lost it notices


def overtake(folder: Path) -> Path:
    path = folder / "claim-2"
    path.write_text(json.dumps(HERE | {"host": "elsewhere", "claim": "other"}))
    return path


def finish(folder: Path) -> None:
    """As another does who took over: the result, then no claims."""
    (folder / "result.json").write_text("{}")
    claims.clear(folder)


LOSSES: dict[str, Callable[[Path], object]] = {
    "overtaken": overtake,
    "overtaken twice": lambda folder: overtake(folder).rename(folder / "claim-3"),
    "finished": finish,
    "finished, claims left": lambda folder: (folder / "result.json").write_text("{}"),
    "finished, another's claim left": lambda folder: (overtake(folder), (folder / "result.json").write_text("{}")),
    "forgotten": claims.clear,
    "another's by now": lambda folder: overtake(folder).rename(folder / "claim-1"),
    "torn": lambda folder: (folder / "claim-1").write_text('{"ho'),
    "the directory removed": shutil.rmtree,
}


@pytest.mark.parametrize("how", LOSSES)
def test_whatever_happened_to_it_a_lost_claim_is_lost_and_takes_nothing_from_others(tmp_path: Path, how: str) -> None:
    claim = taken(folder := tmp_path / "step")
    token = claim.path.read_text()
    assert not claim.lost()
    LOSSES[how](folder)
    others = {path.name: path.stat().st_mtime_ns for path in folder.glob("*") if path.read_text() != token}
    assert claim.lost()
    with pytest.raises(claims.LostClaim, match=r"^step was (taken over|finished) by "):
        claim.check()
    claim.release()
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*") if path.read_text() != token} == others
    if "result.json" in others:
        assert not (folder / "claim-1").exists()  # no stray claim beside a result


def test_a_disk_that_does_not_answer_takes_no_claim_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = taken(tmp_path)
    for name in ("open", "listdir", "stat"):
        with monkeypatch.context() as patch:
            refuse(patch, name, errno.EIO)
            with pytest.raises(CannotWriteError, match=rf"^cannot write {tmp_path}: Input/output error"):
                claim.check()
            assert not claim.lost()
            found = claims.held(tmp_path), claims.describe(tmp_path), claims.abandoned(tmp_path)
            assert name == "stat" or found == (None, "nobody", False)
        claim.check()
    with monkeypatch.context() as patch:
        refuse(patch, "open", errno.ESTALE)  # NFS: another machine has removed it
        assert claim.lost()


def refuse(patch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let a function of `os` fail."""

    def fail(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    patch.setattr(os, name, fail)


# given back, whatever the disk says


def test_what_a_disk_refuses_to_give_back_is_given_back_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.01)
    before = {*threading.enumerate()}

    def beating() -> bool:
        return any(thread.name == "heartbeat" for thread in {*threading.enumerate()} - before)

    for finished in (False, True):
        for name in ("open", "utime", *(["unlink"] if finished else [])):
            claim = taken(folder := tmp_path / f"{name}-{finished}")
            if finished:
                (folder / "result.json").write_text("{}")
            with monkeypatch.context() as patch:
                refuse(patch, name, errno.EROFS)
                claim.release()
            wait_until(lambda: not beating())
            assert (claims.held(folder), claims.abandoned(folder)) == (None, False)
            assert claim.path.exists() != finished


@privileged
def test_a_full_disk_gets_its_claim_back_at_once(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
folder = Path({str(tmp_path)!r}) / "step"
claim = claims.take(folder)
try:
    with (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError as error:
    print(error.errno)
claim.check()
claim.release()
print(claims.held(folder), claims.abandoned(folder))
try:
    claims.take(folder)
except ValueError as error:
    print(str(error))
"""
    told = inside(f"mount -t tmpfs -o size=64k tmpfs {tmp_path}", code).splitlines()
    refused = f"cannot write {tmp_path}/step: No space left on device; free some space or choose another place"
    assert told == [str(errno.ENOSPC), "None False", refused]


# a link whose answer was lost


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ETIMEDOUT])
@pytest.mark.parametrize("done", [True, False])
def test_a_link_whose_answer_was_lost_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, done: bool
) -> None:
    link = os.link

    def lost(source: Path, target: Path) -> None:
        if done:
            link(source, target)
        elif number == errno.EEXIST:
            overtake(tmp_path).rename(target)  # another was faster indeed
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", lost)
        if number == errno.EEXIST:
            claim = claims.take(tmp_path)
            assert (claim is not None) == done
            assert claim is None or not claim.lost()
        else:
            with pytest.raises(CannotWriteError, match=f"^cannot write {tmp_path}: {os.strerror(number)}"):
                claims.take(tmp_path)
            assert taken_later(tmp_path)
    assert list(tmp_path.glob(".claim-*")) == []


def taken_later(folder: Path) -> bool:
    """Return whether nobody holds `folder`."""
    return claims.held(folder) is None and not claims.abandoned(folder)


# other users


@slow
@privileged
def test_what_another_user_holds_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where /proc hides the process, and where the claim cannot be read."""
    monkeypatch.setattr(claims, "BEAT", 3600.0)  # silent, however long it takes others to look
    for parent in (tmp_path, *tmp_path.parents[:3]):  # with xdist one more
        parent.chmod(0o777)
    folder = tmp_path / "step"
    claim = taken(folder)
    folder.chmod(0o777)
    code = (
        f"from pathlib import Path; folder = Path({str(folder)!r}); print(claims.take(folder), claims.describe(folder))"
    )
    for mode, who in ((0o644, f"process {os.getpid()} on {HERE['host']}"), (0o600, "nobody")):
        claim.path.chmod(mode)
        assert inside("mount -t proc -o hidepid=2 proc /proc", code, user=NOBODY) == f"None {who}"
    claim.check()
    then = time.time() - PATIENCE - 5
    os.utime(claim.path, (then, then))
    assert "claim-2" in inside("mount -t proc -o hidepid=2 proc /proc", code, user=NOBODY)
    assert claim.lost()
    assert claims.take(folder) is not None  # that process has ended, as root can see
