import errno
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pruning import files
from pruning.errors import UserError
from tests.commands import ROOT


def test_what_is_written_is_read_the_directory_is_made_and_a_broken_json_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    assert files.read_json(path) is None
    values: list[Any] = [{"a": [1, None, 0.1, "é"]}, {}]
    for value in values:
        files.write_json(path, value)
        assert files.read_json(path) == value
    assert path.read_bytes().endswith(b"\n")
    for content in (bytes(range(256)) * 1000, b""):
        files.write_whole(path, content)
        assert path.read_bytes() == content
    assert [path.name for path in path.parent.iterdir()] == ["x.json"]
    assert files.read_json(path / "none") is None
    for text, reason in (('{"a": ', "no JSON"), ("[1]", "a list, not a mapping"), ("[" * 10**5, "no JSON")):
        path.write_text(text)
        with pytest.raises(files.DamagedError, match=f"^{path} is damaged: it holds {reason}$"):  # not nothing
            files.read_json(path)


def test_who_publishes_first_is_the_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "result.json"
    assert files.publish(path, b"one")
    assert not files.publish(path, b"other")
    assert path.read_bytes() == b"one"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: files.publish(tmp_path / "x", bytes([i])), range(8)))
    assert won.count(True) == 1
    assert (tmp_path / "x").read_bytes() == bytes([won.index(True)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "x"]


def test_a_link_whose_answer_was_lost_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS: the link was made, its answer was lost, and the link that is asked for again exists already."""
    link = os.link

    def lost(*args: Any) -> None:
        link(*args)
        link(*args)

    monkeypatch.setattr(os, "link", lost)
    assert files.publish(tmp_path / "x", b"ours")
    assert (tmp_path / "x").read_bytes() == b"ours"
    assert not files.publish(tmp_path / "x", b"other")


@pytest.mark.parametrize("before", [None, b"before"])
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None, call: str
) -> None:
    path = tmp_path / "result.json"
    if before:
        path.write_bytes(before)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if call == "fsync" else Path, call, full)
    with pytest.raises(files.CannotWriteError) as caught:
        files.write_whole(path, b"after")
    monkeypatch.undo()
    reason = "No space left on device; free some space or choose another place"
    assert str(caught.value) == f"cannot write {path}: {reason}"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"] * bool(before)
    assert not before or path.read_bytes() == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    for place, reason in (("file/x", "File exists"), ("file/none/x", "Not a directory"), ("dir", "Is a ")):
        with pytest.raises(UserError, match=f"^cannot write {tmp_path / place}: {reason}"):
            files.write_whole(tmp_path / place, b"content")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir", "file"]


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([i]) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(files.write_whole, tmp_path / "x"), contents))
    assert (tmp_path / "x").read_bytes() in contents
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


WRITER = """
import itertools, sys, pathlib, pruning.files
print("ready", flush=True)
for number in itertools.cycle(range(256)):
    pruning.files.write_whole(pathlib.Path(sys.argv[1]), bytes([number]) * (1_000_000 + number))
"""


def test_a_killed_writer_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    path, chance, seen = tmp_path / "x", random.Random(0), 0
    for attempt in range(20):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, cwd=ROOT) as writer:
            assert writer.stdout
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.03 if attempt % 2 else 0.002))
            writer.kill()
        if path.exists():
            content = path.read_bytes()
            assert content == content[:1] * (1_000_000 + content[0])
            seen += 1
            path.unlink()
    assert seen  # it was not always too early
