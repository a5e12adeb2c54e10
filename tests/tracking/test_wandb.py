import http.server
import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pruning.runs import Run, every
from pruning.tracking import Reporter, Tracker as Mirror, reporter, tracker as mirror
from pruning.tracking.console import RichReporter as Bars
from tests.commands import ROOT, Command
from tests.tracking.fake_wandb import FakeWandb
from tests.tracking.read_wandb import history, records

Small = tuple[str, ...]
KEY = "0123456789" * 4
ROW = {"epoch": 1, "train_loss": 1.5, "train_top1": 50.0, "test_top1": 40.0, "images_per_second": 123.4, "seconds": 1.0}


@pytest.fixture
def wandb_server() -> Iterator[FakeWandb]:
    running = FakeWandb()
    yield running
    running.close()


def online(server: FakeWandb) -> dict[str, str]:
    return {"WANDB_MODE": "", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}


def made(command: Command) -> dict[str, Run]:
    return {run.path.name.partition("-")[0]: run for run in every(command.runs)}


def epochs(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that are epochs (the others hold the table and the picture), less what W&B adds."""
    rows = [row for row in history if "train_loss" in row]
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]


def offline_log(command: Command, run: Run) -> Path:
    (log,) = (command.runs / ".wandb" / "wandb").glob(f"offline-run-*-{run.id}/run-{run.id}.wandb")
    return log


def summary(log: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records(log):
        if record.WhichOneof("record_type") == "summary":
            found |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update}
    return found


def test_offline_each_step_is_one_run_with_the_rows_and_the_result(command: Command, small: Small) -> None:
    running = command.start(*small, WANDB_MODE="offline")
    running.until(lambda: list(command.runs.glob("train-*/resume.pt")))
    running.kill(signal.SIGKILL)
    running.wait()
    done = command(*small, WANDB_MODE="offline")
    assert (done.returncode, done.stderr) == (0, "")
    for run in made(command).values():
        log = offline_log(command, run)
        assert epochs(list(history(log))) == run.rows()
        result, told = run.result(), summary(log)
        assert result
        plain = {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
        assert {k: told.get(k) for k in plain} == plain


def test_online_a_step_is_a_run_under_its_own_id(command: Command, small: Small, wandb_server: FakeWandb) -> None:
    done = command(*small, "env.wandb.group=ours", **online(wandb_server))
    assert (done.returncode, done.stderr) == (0, "")
    store = wandb_server.store
    runs = made(command)
    assert set(store.runs) == {run.id for run in runs.values()}
    for stage, run in runs.items():
        seen, config, result = store.runs[run.id], run.config(), run.result()
        assert config and result
        assert (seen["jobType"], seen["groupName"], seen["displayName"]) == (stage, "ours", run.path.name)
        assert {k: seen["config"][k]["value"] for k in config["spec"]} == config["spec"]
        assert epochs(seen["history"]) == run.rows()
        told = {k: v for k, v in result.items() if v is not None}
        assert {k: seen["summary"].get(k) for k in told} == told
        assert seen["complete"] == 0
        assert "picture" in seen["summary"] and ("layers" in seen["summary"]) == (stage != "train")
        (model,) = [art for art in store.arts.values() if art["name"] == f"model-{run.id}"]
        assert model["state"] == "COMMITTED" and json.loads(model["metadata"])["parent"] == result["parent"]
        assert run.model.read_bytes() in store.files.values()
    axes = [m for run in runs.values() for m in store.runs[run.id]["config"]["_wandb"]["value"].get("m", [])]
    assert any(m.get("1") == "epoch" for m in axes)


def test_online_no_epoch_is_missing_or_doubled_after_a_kill(
    command: Command, small: Small, wandb_server: FakeWandb
) -> None:
    only = (*small, "stage=train", "train.epochs=6")
    running = command.start(*only, **online(wandb_server))
    running.until(lambda: any(len(run["history"]) >= 2 for run in wandb_server.store.runs.values()))
    running.kill(signal.SIGKILL)
    running.wait()
    done = command(*only, **online(wandb_server))
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = made(command).values()
    assert epochs(wandb_server.store.runs[run.id]["history"]) == run.rows()
    assert [row["epoch"] for row in run.rows()] == [1, 2, 3, 4, 5, 6]


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(403)

    def do_GET(self) -> None:
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_server_that_refuses_stops_nothing(command: Command, small: Small, refusing: str) -> None:
    only = (*small, "stage=train")
    done = command(*only, WANDB_BASE_URL=refusing, WANDB_API_KEY=KEY, WANDB_MODE="")
    assert done.returncode == 0
    # wandb-core complains of its telemetry whatever it is told
    assert all(line.startswith("Failed to export ") for line in done.stderr.splitlines())
    assert sum("W&B" in line for line in done.stdout.splitlines()) == 1
    (run,) = made(command).values()
    assert run.result() and len(run.rows()) == 3
    assert epochs(list(history(offline_log(command, run)))) == run.rows()


def test_without_a_key_and_a_mode_it_is_offline_and_never_asks(command: Command, small: Small, tmp_path: Path) -> None:
    done = command(*small, "stage=train", WANDB_MODE="", HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert offline_log(command, made(command)["train"])
    assert "W&B" not in done.stdout and "wandb" not in done.stdout.lower().replace(str(tmp_path).lower(), "")


def test_wandb_is_not_imported_where_it_is_disabled() -> None:
    code = (
        "import sys; from pathlib import Path; from pruning import execution, tracking\n"
        "m = tracking.tracker({'mode': 'disabled'}, {}, [], Path('x'), print); m.row({}); m.close()\n"
        "print(sorted({'wandb', 'rich', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_mirror_that_fails_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    about = {"id": "r1", "name": "n", "stage": "train", "config": {}}
    found = mirror({"mode": "offline"}, about, [], tmp_path / "file", said.append)
    found.row(ROW)
    found.finish({"parent": None}, [], None, tmp_path / "model")
    found.row(ROW)
    found.close()
    assert len(said) == 1 and said[0].startswith("W&B has failed, the local record goes on alone: ")
    assert type(mirror({"mode": "disabled"}, about, [], tmp_path, said.append)) is Mirror


def test_lines_say_each_epoch_and_each_tenth_of_long_work(capsys: pytest.CaptureFixture[str]) -> None:
    lines = reporter()
    assert type(lines) is Reporter  # stdout is no terminal here
    lines.begin("a", 10, 0)
    lines.begin("b", 10, 5)
    lines.batch(5)
    lines.row(ROW, 2)
    for done in range(1, 101):
        lines.work("decode", done, 100)
    lines.end()
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == [
        "a: starts",
        "b: continues at 50%",
        "  epoch 1/2  loss 1.500 train 50.00 % test 40.00 %  123 images/s",
    ]
    assert out[3:] == [f"  decode: {done}/100" for done in range(10, 101, 10)]


def test_bars_are_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    bars = reporter()
    assert type(bars) is Bars
    bars.work("decode [images]", 5, 10)
    bars.work("decode [images]", 10, 10)
    bars.begin("train-x", 20, 0)
    bars.batch(10)
    bars.row(ROW, 2)
    bars.note("a note with [brackets] and a/path")
    bars.batch(10)
    bars.end()
    bars.end()
    bars.begin("nothing", 0, 0)  # a step of no epochs
    bars.end()
    text = terminal.getvalue()
    for part in ("decode [images]", "train-x", "epoch 1/2", "images/s", "100%", "a note with [brackets] and a/path"):
        assert part in text, part


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
