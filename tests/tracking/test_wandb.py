import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning.runs import Run, every
from pruning.tracking import Tracker, tracker
from pruning.tracking.guard import BestEffort
from pruning.tracking.wandb import mode_of
from tests.commands import ROOT, Command, Running
from tests.helpers import by_stage, result, slow
from tests.helpers import epochs as saved
from tests.tracking.fake_wandb import FakeWandb
from tests.tracking.read_wandb import epochs, history, summary

Small = tuple[str, ...]


def end(running: Running, number: int, reached: Callable[[], Any]) -> None:
    running.until(reached)
    running.kill(number)
    running.wait()


def offline_file(run: Run) -> Path:
    id = result(run)["id"]
    (path,) = (run.path.parent / ".wandb" / "wandb").glob(f"offline-run-*-{id}/run-{id}.wandb")
    return path


def known(run: Run) -> dict[str, Any]:
    """Return what W&B must know of the result; the layers are a table there."""
    plain = json.loads(json.dumps(result(run)))
    return {key: value for key, value in plain.items() if value is not None and key != "layers"}


def test_offline_a_step_is_one_run_with_the_rows_and_the_result(command: Command, small: Small, tmp_path: Path) -> None:
    words = (*small, "stage=train")
    end(command.start(*words, WANDB_MODE="offline"), signal.SIGKILL, lambda: [*command.runs.glob("train-*/resume.pt")])
    done = command(*words, WANDB_MODE="", HOME=str(tmp_path))  # no mode and no key: offline, and never asks
    assert (done.returncode, done.stderr) == (0, "")
    assert "W&B" not in done.stdout
    assert "wandb" not in done.stdout.lower().replace(str(tmp_path).lower(), "")
    (run,) = every(command.runs)
    assert epochs(history(offline_file(run))) == run.rows()
    assert {key: summary(offline_file(run)).get(key) for key in known(run)} == known(run)


def test_online_a_step_is_a_run_under_its_own_id_with_no_epoch_missing_or_doubled(
    command: Command, small: Small, wandb_server: FakeWandb
) -> None:
    words, online = (*small, "stage=prune", "train.epochs=12"), wandb_server.environment
    end(command.start(*words, **online), signal.SIGTERM, lambda: saved(command.runs) >= 3)  # sends its rows first
    (seen,) = wandb_server.runs.values()
    assert 3 <= len(seen.history) < 12
    end(command.start(*words, **online), signal.SIGKILL, lambda: saved(command.runs) >= 6)  # does not
    done = command(*words, "env.wandb.group=ours", **online)
    assert (done.returncode, done.stderr) == (0, "")
    runs = by_stage(command.runs)
    assert set(wandb_server.runs) == {result(run)["id"] for run in runs.values()}
    for stage, run in runs.items():
        seen, config = wandb_server.runs[result(run)["id"]], run.config()
        assert config
        about = ("jobType", "displayName", "groupName")
        assert [seen.about[key] for key in about] == [stage, run.path.name, "ours"]
        assert {key: seen.config[key]["value"] for key in config["spec"]} == config["spec"]
        assert epochs(seen.history) == run.rows()
        assert {key: seen.summary.get(key) for key in known(run)} == known(run)
        assert seen.exit_code == 0
        assert {"picture", "layers"} & set(seen.summary) == {"picture", *(["layers"] if stage == "prune" else [])}
        assert (run.path / "picture.png").read_bytes() in wandb_server.uploads.values()
        model = wandb_server.artifact(f"model-{result(run)['id']}")
        assert json.loads(model["metadata"])["parent"] == result(run)["parent"]
        assert wandb_server.uploads[f"/storage/{model['id']}/model.safetensors"] == run.model.read_bytes()
    dense = wandb_server.runs[result(runs["train"])["id"]]
    assert [row["epoch"] for row in epochs(dense.history)] == list(range(1, 13))
    epoch, rest = dense.config["_wandb"]["value"]["m"]
    assert (epoch["1"], rest["2"], rest["5"]) == ("epoch", "*", 1)  # everything else is drawn over the first metric


@slow
def test_a_server_that_refuses_is_asked_once_and_stops_nothing(
    command: Command, small: Small, wandb_server: FakeWandb
) -> None:
    wandb_server.refuses = True
    done = command(*small, "stage=prune", **wandb_server.environment)
    assert done.returncode == 0
    # wandb-core complains of its telemetry whatever its settings are
    assert all(line.startswith("Failed to export ") for line in done.stderr.splitlines())
    assert sum("W&B" in line for line in done.stdout.splitlines()) == 1
    runs = by_stage(command.runs)
    assert (len(runs["train"].rows()), runs["prune"].done) == (3, True)
    for run in runs.values():
        assert epochs(history(offline_file(run))) == run.rows()


def test_the_setting_decides_the_mode_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode_of({"mode": None}) == "disabled"
    assert mode_of({"mode": "offline"}) == "offline"


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mode_of({"mode": None}) == "offline"


def test_wandb_is_not_imported_where_it_is_disabled() -> None:
    code = (
        "import sys; from pathlib import Path; from pruning import tracking; from pruning.execution import execute\n"
        "m = tracking.tracker({'mode': 'disabled'}, {}, [], Path('x'), print); m.row({}); m.close()\n"
        "print(sorted({'wandb', 'rich', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


class Failing(Tracker):
    def row(self, metrics: dict[str, Any]) -> None:
        raise RuntimeError("no\nroute")


def test_a_tracker_that_fails_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    about = {"id": "r1", "name": "n", "stage": "train", "config": {}}
    notes: list[str] = []
    for failing in (
        tracker({"mode": "offline"}, about, [], tmp_path / "file", notes.append),
        BestEffort(Failing, notes.append),
    ):
        for epoch in (1, 2):
            failing.row({"epoch": epoch})
        failing.finish({"parent": None}, [], None, tmp_path / "model")
        failing.close()
    assert [note.partition(": ")[0] for note in notes] == ["W&B has failed, the local record goes on alone"] * 2
    assert str(tmp_path / "file") in notes[0]
    assert notes[1].endswith(": no")
    disabled = tracker({"mode": "disabled"}, about, [], tmp_path, notes.append)
    assert isinstance(disabled, BestEffort)
    assert type(disabled.inner) is Tracker
