"""W&B never stops a run, whatever its keys, modes, addresses, settings files and agents are."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Command
from tests.helpers import by_stage, epochs, slow
from tests.tracking.fake_wandb import FakeWandb
from tests.tracking.read_wandb import epochs as of_history
from tests.tracking.read_wandb import history

Small = tuple[str, ...]
KEY = "0" * 40

HOSTILE: dict[str, dict[str, str]] = {
    "short key": {"WANDB_API_KEY": "short"},
    "odd key": {"WANDB_API_KEY": "key with spaces " * 4},
    "unknown mode": {"WANDB_MODE": "nonsense"},
    "shared mode": {"WANDB_MODE": "shared", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"},
    "no address": {"WANDB_BASE_URL": "nonsense", "WANDB_API_KEY": KEY},
    "odd address": {"WANDB_BASE_URL": "ftp://[::1", "WANDB_API_KEY": KEY},
    "nobody listens": {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY},
    "wrong types": {"WANDB_MODE": "offline", "WANDB_INIT_TIMEOUT": "soon", "WANDB_DISABLE_CODE": "perhaps"},
    "no such place": {"WANDB_MODE": "offline", "WANDB_DIR": "/proc/nowhere", "WANDB_CONFIG_DIR": "/proc/nowhere"},
    "odd names": {"WANDB_MODE": "offline", "WANDB_PROJECT": "a/b:c\n%", "WANDB_ENTITY": "\t", "WANDB_TAGS": ",,"},
    "another's run": {"WANDB_MODE": "offline", "WANDB_RUN_ID": "/../x", "WANDB_RESUME": "must"},
    "agent alone": {"WANDB_SWEEP_ID": "none", "WANDB_RUN_ID": "r", "WANDB_MODE": "nonsense"},
    "agent's file": {"WANDB_SWEEP_ID": "none", "WANDB_SWEEP_PARAM_PATH": "/proc/nowhere", "WANDB_API_KEY": "short"},
    "agent, no server": {"WANDB_SWEEP_ID": "s", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"},
    "settings file": {"WANDB_CONFIG_DIR": "garbage"},
}
QUICK = ("short key", "unknown mode", "agent alone", "settings file")


@pytest.mark.parametrize("case", [case if case in QUICK else pytest.param(case, marks=slow) for case in HOSTILE])
def test_whatever_is_set_the_run_is_made_and_one_line_says_what_failed(
    command: Command, small: Small, tmp_path: Path, case: str
) -> None:
    environ = {"WANDB_MODE": "", "HOME": str(tmp_path)} | HOSTILE[case]
    if case == "settings file":
        (tmp_path / "garbage").mkdir()
        (tmp_path / "garbage" / "settings").write_bytes(b"\x00\xff[[[\nno settings\n= 5")
        environ["WANDB_CONFIG_DIR"] = str(tmp_path / "garbage")
    done = command(*small, "stage=train", "train.epochs=1", **environ)
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr
    said = [line for line in done.stdout.splitlines() if "W&B" in line]
    assert len(said) <= 2  # of the step, and of the agent
    assert by_stage(command.runs)["train"].done


def test_a_wandb_that_cannot_be_imported_stops_nothing(command: Command, small: Small, tmp_path: Path) -> None:
    (tmp_path / "broken" / "wandb").mkdir(parents=True)
    (tmp_path / "broken" / "wandb" / "__init__.py").write_text("raise SystemExit('no')")
    words = (*small, "stage=train", "train.epochs=1")
    done = command(*words, cold=True, WANDB_MODE="offline", PYTHONPATH=str(tmp_path / "broken"))
    assert (done.returncode, done.stderr) == (0, "")
    assert sum("W&B has failed, the local record goes on alone: no" in line for line in done.stdout.splitlines()) == 1


def test_epochs_that_went_online_are_not_written_again_when_the_server_has_gone(
    command: Command, small: Small, wandb_server: FakeWandb, tmp_path: Path
) -> None:
    """What is synced afterwards is appended by the server, so it must not hold them."""
    words = (*small, "stage=train", "train.epochs=12")
    running = command.start(*words, **wandb_server.environment)
    running.until(lambda: epochs(command.runs) >= 4)
    running.kill(signal.SIGTERM)  # sends its rows first
    running.wait()
    (seen,) = wandb_server.runs.values()
    before = [row["epoch"] for row in of_history(seen.history)]
    assert 4 <= len(before) < 12
    done = command(*words, WANDB_MODE="offline")
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = (command.runs / ".wandb" / "wandb").glob("offline-run-*/run-*.wandb")
    kept = [row["epoch"] for row in of_history(history(file))]
    assert before + kept == list(range(1, 13))
    sync = [sys.executable, "-m", "wandb", "sync", str(file.parent)]
    given = os.environ | wandb_server.environment | {"HOME": str(tmp_path)}
    environ = {key: value for key, value in given.items() if value}
    synced = subprocess.run(sync, env=environ, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert synced.returncode == 0, synced.stdout + synced.stderr
    (seen,) = wandb_server.runs.values()
    assert sorted(row["epoch"] for row in of_history(seen.history)) == list(range(1, 13))
    assert json.loads((by_stage(command.runs)["train"].path / "result.json").read_text())["epochs"] == 12
