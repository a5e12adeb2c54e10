"""Commands whose terminal is closed, broken, full, of another encoding, or goes away."""

import os
import pty
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import printable
from pruning.tracking.terminal import stream
from tests.commands import ROOT, Command
from tests.helpers import LONG, epochs, lasting, quick, slow

Small = tuple[str, ...]
SHORT = ("train.epochs=1", "finetune.epochs=1")
MAIN = f'"{sys.executable}" "{ROOT / "main.py"}"'


def shell(line: str, folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `line`, in which MAIN stands for a run of a short chain; the runs are in `folder`/runs."""
    places = (f"env.runs={folder / 'runs'}", f"env.data={folder / 'data'}", "env.device=cpu", "env.threads=1")
    overrides = " ".join(f"'{word}'" for word in (*words, *places))
    script = line.replace("MAIN", f"{MAIN} {overrides}")
    env = {key: value for key, value in (os.environ | environ).items() if value}
    return subprocess.run(["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=LONG)


@pytest.fixture
def wanted(command: Command, small: Small) -> dict[str, Any]:
    done = command(*small, *SHORT, runs=command.home / "wanted")
    assert (done.returncode, done.stderr) == (0, "")
    return lasting(command.home / "wanted")


ENDS = {
    "closed": "MAIN >&- ",
    "all closed": "MAIN <&- >&- 2>&-",
    "broken": "(MAIN; echo $? > status) | head -1; exit $(cat status)",
    "broken at once": "(sleep 1; MAIN; echo $? > status) | true; exit $(cat status)",
    "errors too": "(MAIN 2>&1; echo $? > status) | head -1; exit $(cat status)",
    "full": "MAIN > /dev/full",
    "both full": "MAIN > /dev/full 2>&1",
}


@pytest.mark.parametrize("end", quick("broken", of=ENDS))
def test_a_terminal_that_cannot_be_written_stops_nothing(
    wanted: dict[str, Any], small: Small, tmp_path: Path, end: str
) -> None:
    line = ENDS[end].replace("status", str(tmp_path / "status"))
    done = shell(line, tmp_path, *small, *SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    assert lasting(tmp_path / "runs") == wanted


@slow
@pytest.mark.parametrize("end", ["closed", "broken", "full"])
@pytest.mark.parametrize(
    "words", [("seed=0,1", "-m"), ("stage=status",), ("hydra/launcher=plan",), ("seed=-1",), ("--help",)]
)
def test_nor_a_sweep_a_plan_a_status_or_an_error(
    small: Small, tmp_path: Path, words: tuple[str, ...], end: str
) -> None:
    line = ENDS[end].replace("status", str(tmp_path / "status"))
    options = tuple(word for word in words if word.startswith("-"))
    values = tuple(word for word in words if not word.startswith("-"))
    done = shell(line.replace("MAIN", f"MAIN {' '.join(options)}"), tmp_path, *small, *SHORT, *values)
    refused = "seed=-1" in words
    assert done.returncode == refused
    assert done.stderr == ("error: seed must be a whole number >= 0, got -1\n" if refused else "")
    if "-m" in words:
        assert len([*(tmp_path / "runs").glob("*/result.json")]) == 6


ENCODINGS = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


@slow
@pytest.mark.parametrize("environ", ENCODINGS, ids=["ascii", "C"])
@pytest.mark.parametrize("name", ["Ünïcode ☃", "two\nlines", b"not utf-8 \xe9".decode(errors="surrogateescape")])
def test_names_of_every_kind_are_printed_on_one_line(
    small: Small, tmp_path: Path, name: str, environ: dict[str, str]
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    quoted = os.fsencode(f"{folder}/runs").decode(errors="surrogateescape")
    done = shell(f"MAIN 'env.runs=\"{quoted}\"'", tmp_path, *small, *SHORT, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert len([*folder.glob("runs/*/result.json")]) == 3
    table, _, last = done.stdout.partition("\nstep ")[2].rpartition("\n\n")
    assert len(table.splitlines()) == 5
    assert last.startswith("picture: ")
    shown = shell(f"MAIN stage=status 'env.runs=\"{quoted}\"'", tmp_path, **environ)
    assert (shown.returncode, shown.stderr) == (0, "")
    wrong = shell(f"MAIN dataset=image_folder 'dataset.root=\"{folder}/no\"'", tmp_path, **environ)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)


def test_what_cannot_be_seen_is_an_escape() -> None:
    assert printable("a b\n\t\x1b[1m\udce9 é") == "a b\\n\\t\\x1b[1m\\udce9 é"


@slow
@pytest.mark.parametrize("columns", ["0", "1", "20", "100000", "x"])
def test_a_terminal_of_any_width(small: Small, tmp_path: Path, columns: str) -> None:
    leader, follower = pty.openpty()
    env = os.environ | {"COLUMNS": columns, "TERM": "dumb" if columns == "x" else "xterm"}
    words = [*small, *SHORT, f"env.runs={tmp_path / 'runs'}", "env.device=cpu", "env.threads=1"]
    with subprocess.Popen(
        [sys.executable, "main.py", *words], cwd=ROOT, env=env, stdout=follower, stderr=follower
    ) as process:
        os.close(follower)
        while True:
            try:
                if not os.read(leader, 65536):
                    break
            except OSError:  # Linux's end of a terminal
                break
        os.close(leader)
    assert process.returncode == 0
    assert len([*(tmp_path / "runs").glob("*/result.json")]) == 3


@slow
@pytest.mark.parametrize("nohup", [True, False])
def test_the_end_of_the_terminal_saves_the_state_unless_it_is_ignored(
    command: Command, small: Small, wanted: dict[str, Any], nohup: bool
) -> None:
    more = (*small, "train.epochs=40", "stage=train")
    ignore = "trap '' HUP; " if nohup else ""
    places = (f"env.runs={command.runs}", f"env.data={command.home / 'data'}", "env.device=cpu", "env.threads=1")
    line = f"{ignore}exec {MAIN} {' '.join((*more, *places))}"
    heard = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    with subprocess.Popen(
        ["bash", "-c", line], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heard
    ) as process:
        while not epochs(command.runs):
            assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        assert process.stderr
        assert process.stderr.read() == b""
    assert process.returncode == (0 if nohup else 128 + signal.SIGHUP)
    assert len([*command.runs.glob("*/result.json")]) == nohup
    assert command(*more).returncode == 0
    assert epochs(command.runs) == 40


def test_a_stream_forgives_and_keeps_what_was_written_before(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    out = stream(writer, None)
    print("one é \udce9", file=out, flush=True)
    assert os.read(reader, 100) == "one é \\udce9\n".encode()
    os.close(reader)
    for _ in range(3):
        print("two", file=out, flush=True)
    assert out.fileno() == writer
    assert not out.isatty()
    os.close(writer)
