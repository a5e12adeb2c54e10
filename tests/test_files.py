import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pruning import files
from pruning.errors import UserError

ROOT = Path(__file__).parents[1]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "x.json"
    assert files.read_json(path) is None
    for value in ({"a": [1, None, 0.1, "é"]}, [], "later"):
        files.write_json(path, value)
        assert files.read_json(path) == value
    assert path.read_bytes().endswith(b"\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_bytes_are_written_as_they_are(tmp_path):
    content = bytes(range(256)) * 1000
    files.write_whole(tmp_path / "x", content)
    files.write_whole(tmp_path / "empty", b"")
    assert (tmp_path / "x").read_bytes() == content and (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize("before", [None, b"before"])
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, before, call):
    path = tmp_path / "result.json"
    if before:
        path.write_bytes(before)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if call == "fsync" else Path, call, full)
    with pytest.raises(UserError) as caught:
        files.write_whole(path, b"after")
    monkeypatch.undo()
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device; free some space or choose another place with env.runs=DIR"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"] * bool(before)
    assert not before or path.read_bytes() == before


@pytest.mark.parametrize(
    "place, reason", [("file/x", "File exists"), ("file/none/x", "Not a directory"), ("dir", "Is a ")]
)
def test_a_place_that_cannot_be_written(tmp_path, place, reason):
    (tmp_path / "file").write_text("I am a file")
    (tmp_path / "dir").mkdir()
    with pytest.raises(UserError, match=f"^cannot write {tmp_path / place}: {reason}"):
        files.write_whole(tmp_path / place, b"content")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir", "file"]


def test_the_directory_is_made(tmp_path):
    files.write_whole(tmp_path / "a" / "b" / "x", b"content")
    assert (tmp_path / "a" / "b" / "x").read_bytes() == b"content"


def test_a_broken_json_is_an_error_and_not_nothing(tmp_path):
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(ValueError):
        files.read_json(tmp_path / "x.json")


def test_writers_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "x"
    contents = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=files.write_whole, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and [p.name for p in tmp_path.iterdir()] == ["x"]


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


def test_a_killed_writer_leaves_a_whole_file_or_none(tmp_path):
    path, chance = tmp_path / "x", random.Random(0)
    seen = set()
    for attempt in range(20):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, cwd=ROOT)
        with writer:
            assert writer.stdout and writer.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.03) if attempt % 2 else chance.uniform(0, 0.002))
            writer.send_signal(signal.SIGKILL)
        if path.exists():
            content = path.read_bytes()
            assert content == content[:1] * (1_000_000 + content[0])
            seen.add(content[0])
            path.unlink()
    assert seen  # it was not always too early
