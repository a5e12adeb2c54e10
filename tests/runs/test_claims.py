import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pruning import claims
from pruning.errors import UserError

ROOT = Path(__file__).parents[1]

RACER = """
import sys, time
from pathlib import Path
from pruning import claims
folder, claim = Path(sys.argv[1]), None
print("ready", flush=True)
for line in sys.stdin:
    word, _, at = line.strip().partition(" ")
    while at and time.monotonic() < float(at):
        pass
    if word == "take":
        claim = claims.take(folder)
        print("won" if claim else "lost", flush=True)
    elif claim:
        getattr(claim, word)()
        print("done", flush=True)
"""


class Racer:
    """A process of its own that takes claims when told."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", RACER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def racers(folder: Path, count: int) -> Iterator[list[Racer]]:
    started = [Racer(folder) for _ in range(count)]
    try:
        assert [racer.hear() for racer in started] == ["ready"] * count
        yield started
    finally:
        for racer in started:
            racer.kill()
            assert racer.process.stdin and racer.process.stdout
            racer.process.stdin.close(), racer.process.stdout.close()


def race(runners: list[Racer]) -> list[Racer]:
    """Let all take at the same moment; return the winners."""
    at = time.monotonic() + 0.05
    for racer in runners:
        racer.say(f"take {at}")
    return [racer for racer in runners if racer.hear() == "won"]


def elsewhere(folder: Path, age: float, **changes: object) -> Path:
    """Write a claim of a process on another machine, with its last heartbeat `age` seconds ago."""
    folder.mkdir(exist_ok=True)
    path = folder / "claim-1"
    path.write_text(json.dumps(claims.identity() | {"host": "elsewhere"} | changes))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_of_eight_at_once_one_wins_and_each_dead_winner_is_followed_by_one(tmp_path):
    """Eight race for a free step; then kill -9 the winner, seven race for a stale claim, and so on."""
    folder = tmp_path / "runs" / "step"
    with racers(folder, 8) as running:
        left = list(running)
        for number in range(1, 9):
            began = time.monotonic()
            winners = race(left)
            assert len(winners) == 1
            assert time.monotonic() - began < 5  # at once, not after PATIENCE
            assert claims.newest(folder) == number
            assert claims.held(folder)["pid"] == winners[0].process.pid  # type: ignore[index]
            assert race([racer for racer in left if racer is not winners[0]]) == []
            winners[0].kill()
            left.remove(winners[0])
        assert claims.held(folder) is None
    assert sorted(path.name for path in folder.iterdir()) == [f"claim-{i}" for i in range(1, 9)]


def test_many_races_for_what_was_released(tmp_path):
    with racers(tmp_path, 6) as running:
        for _ in range(15):
            (winner,) = race(running)
            assert winner.ask("release") == "done"
        assert claims.newest(tmp_path) == 15


def test_a_zombie_holds_nothing(tmp_path):
    with racers(tmp_path, 1) as (racer,):
        assert racer.ask("take") == "won"
        assert claims.take(tmp_path) is None
        os.kill(racer.process.pid, signal.SIGKILL)
        until = time.monotonic() + 10
        while " Z " not in Path(f"/proc/{racer.process.pid}/stat").read_text() and time.monotonic() < until:
            time.sleep(0.01)
        assert claims.started(racer.process.pid) is None
        claim = claims.take(tmp_path)
        assert claim and claim.number == 2
        claim.forget()


def test_a_stopped_process_still_holds(tmp_path):
    with racers(tmp_path, 1) as (racer,):
        assert racer.ask("take") == "won"
        os.kill(racer.process.pid, signal.SIGSTOP)
        assert claims.take(tmp_path) is None
        os.kill(racer.process.pid, signal.SIGCONT)
        assert racer.ask("release") == "done"
        claim = claims.take(tmp_path)
        assert claim
        claim.forget()


def test_the_number_of_a_dead_process_may_be_used_again(tmp_path):
    path = elsewhere(tmp_path, 0, host=claims.identity()["host"], started="1")  # our pid, but started at another time
    assert claims.stale(path, time.time()) and claims.held(tmp_path) is None


@pytest.mark.parametrize("key", ["host", "boot", "processes"])
@pytest.mark.parametrize("age, free", [(0, False), (claims.PATIENCE - 5, False), (claims.PATIENCE + 5, True)])
def test_a_holder_that_cannot_be_seen_is_gone_after_patience(tmp_path, key, age, free):
    here = claims.identity()
    elsewhere(tmp_path, age, **{"host": here["host"], key: "other", "pid": 2**22 + 1, "started": "1"})
    claim = claims.take(tmp_path)
    assert (claim is not None) == free
    assert [p.name for p in tmp_path.glob(".claim-*")] == []
    if claim:
        assert claim.number == 2
        claim.forget()


def test_what_is_held_is_told(tmp_path):
    elsewhere(tmp_path, 7, pid=42, job="1234")
    holder = claims.held(tmp_path)
    assert holder and (holder["host"], holder["pid"], holder["job"]) == ("elsewhere", 42, "1234")
    assert 6 < holder["beat"] < 60
    assert claims.describe(tmp_path) == "process 42 on elsewhere (SLURM job 1234)"
    elsewhere(tmp_path, 0, pid=42, job=None)
    assert claims.describe(tmp_path) == "process 42 on elsewhere"
    elsewhere(tmp_path, 2 * claims.PATIENCE)
    assert claims.held(tmp_path) is None and claims.describe(tmp_path) == "nobody"


def test_nobody_holds_what_nobody_claimed(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert claims.newest(folder) == 0 and claims.held(folder) is None and claims.describe(folder) == "nobody"


def test_taking_makes_the_folder_and_leaves_one_file(tmp_path):
    folder = tmp_path / "a" / "b"
    claim = claims.take(folder)
    assert claim and claim.path == folder / "claim-1"
    assert [path.name for path in folder.iterdir()] == ["claim-1"]
    assert claims.held(folder)["pid"] == os.getpid()  # type: ignore[index]
    assert claims.take(folder) is None  # not even this process twice
    claim.check()
    claim.forget()


def test_released_is_free_at_once(tmp_path):
    first = claims.take(tmp_path)
    assert first
    first.release()
    assert claims.held(tmp_path) is None
    second = claims.take(tmp_path)
    assert second and second.number == 2
    second.forget()


def test_who_lost_the_claim_hears_of_it(tmp_path):
    claim = claims.take(tmp_path)
    assert claim
    claim.check()
    elsewhere(tmp_path, 2 * claims.PATIENCE)  # as others see us when we hang
    with racers(tmp_path, 1) as (racer,):
        assert racer.ask("take") == "won"
        text = f"{tmp_path.name} was taken over by process {racer.process.pid} on {claims.identity()['host']}"
        with pytest.raises(claims.LostClaim) as caught:
            claim.check()
        assert str(caught.value).startswith(text)
        claim.release()  # which takes nothing from the new holder
        assert claims.take(tmp_path) is None and racer.ask("check") == "done"


def test_forget_removes_all(tmp_path):
    for _ in range(3):
        claim = claims.take(tmp_path)
        assert claim
        claim.release()
    claim = claims.take(tmp_path)
    assert claim
    (tmp_path / ".claim-0123abcd").write_text("left by a killed process")
    (tmp_path / "result.json").write_text("{}")
    claim.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_heart_beats_until_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    claim = claims.take(tmp_path)
    assert claim

    def beats() -> bool:
        os.utime(claim.path, (1000, 1000))
        until = time.monotonic() + 2
        while (old := claim.path.stat().st_mtime == 1000) and time.monotonic() < until:
            time.sleep(0.01)
        return not old

    assert beats()
    (content := claim.path.read_bytes()), claim.path.unlink()
    time.sleep(0.1)  # the disk is away for some beats
    claim.path.write_bytes(content)
    assert beats()
    claim.release()
    time.sleep(0.05)
    os.utime(claim.path, (1000, 1000))
    time.sleep(0.1)
    assert claim.path.stat().st_mtime == 1000


def test_the_holder_may_forget_while_another_takes(tmp_path, monkeypatch):
    """The step was done just then: look again, as when the claim is held; not an error."""
    claim = claims.take(tmp_path)
    assert claim
    newest = claims.newest

    def meanwhile(folder: Path) -> int:
        number = newest(folder)
        claim.forget()
        return number

    monkeypatch.setattr(claims, "newest", meanwhile)
    assert claims.take(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("content", ["", '{"host": "a', "\0" * 64])
@pytest.mark.parametrize("age, free", [(0, False), (2 * claims.PATIENCE, True)])
def test_a_claim_that_cannot_be_read_counts_by_its_age(tmp_path, content, age, free):
    """As the crash of a machine can leave it: the name is there, the content is not."""
    elsewhere(tmp_path, age).write_text(content)
    os.utime(tmp_path / "claim-1", (time.time() - age,) * 2)
    assert claims.describe(tmp_path) == "nobody" or not free
    claim = claims.take(tmp_path)
    assert (claim is not None) == free
    if claim:
        claim.forget()


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("I am a file")
    for place, reason in [("file/step", "Not a directory"), ("file", "File exists")]:
        with pytest.raises(UserError, match=f"^cannot write {tmp_path / place}: {reason}"):
            claims.take(tmp_path / place)
