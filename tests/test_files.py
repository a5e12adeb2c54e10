import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pruning import files
from pruning.errors import UserError

ROOT = Path(__file__).parents[1]


def test_what_is_written_is_read_and_the_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    assert files.read_json(path) is None
    values: tuple[Any, ...] = ({"a": [1, None, 0.1, "é"]}, [], "later")
    for value in values:
        files.write_json(path, value)
        assert files.read_json(path) == value
    assert path.read_bytes().endswith(b"\n")
    for content in (bytes(range(256)) * 1000, b""):
        files.write_whole(path, content)
        assert path.read_bytes() == content
    assert [path.name for path in path.parent.iterdir()] == ["x.json"]
    assert files.read_json(path / "none") is None


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


@pytest.mark.parametrize(
    ("place", "reason"), [("file/x", "File exists"), ("file/none/x", "Not a directory"), ("dir", "Is a ")]
)
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").write_text("I am a file")
    (tmp_path / "dir").mkdir()
    with pytest.raises(UserError, match=f"^cannot write {tmp_path / place}: {reason}"):
        files.write_whole(tmp_path / place, b"content")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir", "file"]


def test_a_broken_json_is_an_error_and_not_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="Expecting value"):
        files.read_json(tmp_path / "x.json")


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=files.write_whole, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


WRITER = """
import sys
from pathlib import Path
from pruning.files import write_whole
path, number = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    write_whole(path, bytes([number % 256]) * (1_000_000 + number % 256))
    number += 1
"""


def test_a_killed_writer_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    path, chance, seen = tmp_path / "x", random.Random(0), 0
    for attempt in range(20):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, cwd=ROOT)
        with writer:
            assert writer.stdout
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.03) if attempt % 2 else chance.uniform(0, 0.002))
            writer.send_signal(signal.SIGKILL)
        if path.exists():
            content = path.read_bytes()
            assert content == content[:1] * (1_000_000 + content[0])
            seen += 1
            path.unlink()
    assert seen  # it was not always too early
