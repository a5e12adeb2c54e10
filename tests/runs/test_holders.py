import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning.runs import claims
from pruning.runs.holders import DAY, PATIENCE, look
from tests.runs.steps import taken

ELSEWHERE = claims.identity() | {"host": "elsewhere"}


def text(content: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as place:
        os.chdir(path.parent)  # the whole path may be too long for a socket
        place.bind(path.name)


UNREADABLE: dict[str, Callable[[Path], Any]] = {
    "empty": text(""), "torn": text('{"host": "a'), "zeros": text("\0" * 64), "bytes": text(b"\xff\xfe{}"),
    "list": text("[1, 2]"), "number": text("1e999"), "null": text("null"), "deep": text("[" * 100_000),
    "digits": text("9" * 10_000), "keys": text('{"pid": 1}'), "types": text(json.dumps(ELSEWHERE | {"pid": "7"})),
    "huge": text(json.dumps(ELSEWHERE | {"pid": 10**40})), "long": text(json.dumps(ELSEWHERE | {"host": "x" * 10**6})),
    "lines": text(json.dumps(ELSEWHERE | {"host": "two\nlines"})),
    "directory": Path.mkdir, "fifo": os.mkfifo, "socket": bound, "zero": lambda path: path.symlink_to("/dev/zero"),
    "itself": lambda path: path.symlink_to(path.name),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize(("age", "free"), [(0, False), (PATIENCE + 5, True), (-2 * DAY, True)])
def test_a_claim_that_cannot_be_read_counts_by_its_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, age: float, free: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    UNREADABLE[kind](path := tmp_path / "claim-1")
    if kind == "zero":
        assert claims.newest(tmp_path) == 1  # /dev/zero has the time that it has
        assert (claims.held(tmp_path), claims.describe(tmp_path)) == (None, "nobody")
        return
    then = time.time() - age
    os.utime(path, (then, then), follow_symlinks=False)
    assert (claims.held(tmp_path), claims.describe(tmp_path)) == (None, "nobody")
    assert (claims.abandoned(tmp_path), claims.stale(path, time.time())) == (free, free)
    claim = claims.take(tmp_path)
    assert (claim is not None) == free
    if claim:
        claim.check()
        assert claim.number == 2
        claim.release()


@pytest.mark.parametrize("end", ["", "x", "0", "01", "-1", "1.txt", "9" * 200, "\u0661"])
def test_what_is_no_claim_is_passed_over(tmp_path: Path, end: str) -> None:
    (tmp_path / f"claim-{end}").write_text(json.dumps(ELSEWHERE))
    found = claims.newest(tmp_path), claims.held(tmp_path), claims.abandoned(tmp_path), claims.describe(tmp_path)
    assert found == (0, None, False, "nobody")
    claim = taken(tmp_path)
    assert claim.number == 1
    claim.check()
    claim.forget()


def test_a_claim_that_points_nowhere_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "claim-1").symlink_to("nowhere")
    assert (claims.held(tmp_path), claims.abandoned(tmp_path), claims.describe(tmp_path)) == (None, False, "nobody")
    assert taken(tmp_path).number == 2


def test_claims_of_earlier_versions_are_read(tmp_path: Path) -> None:
    early = {key: value for key, value in ELSEWHERE.items() if key != "claim"}
    (tmp_path / "claim-1").write_text(json.dumps(early))
    assert (claims.held(tmp_path) or {})["host"] == "elsewhere"
    (tmp_path / "claim-1").write_text(json.dumps(early | {"released": True}))
    assert (claims.held(tmp_path), claims.abandoned(tmp_path)) == (None, False)
    assert taken(tmp_path).number == 2


@pytest.mark.parametrize("ahead", [0.0, 3600.0])
def test_a_clock_that_is_slow_hides_no_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    (tmp_path / "claim-1").write_text(json.dumps(ELSEWHERE))
    now = time.time() - ahead
    monkeypatch.setattr(time, "time", lambda: now)
    assert 0 <= (claims.held(tmp_path) or {})["beat"] < PATIENCE
    assert claims.take(tmp_path) is None
    monkeypatch.setattr(time, "time", lambda: now + 2 * 3600)
    assert claims.held(tmp_path) is None  # as it looks from here
    assert claims.take(tmp_path) is None  # the file server's times decide


def test_a_folder_that_cannot_be_listed_has_no_holder_to_show(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path / "none" / "deeper", Path(__file__), Path("/proc/self/mem")):
        assert (claims.held(folder), claims.abandoned(folder), claims.describe(folder)) == (None, False, "nobody")
    assert look(tmp_path / "none", strict=True) is None
