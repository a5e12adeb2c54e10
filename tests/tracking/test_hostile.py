"""W&B never stops a run, whatever its keys, modes, addresses, settings files and agents are."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.commands import Command, Running
from tests.helpers import by_stage, epochs, quick, result, slow
from tests.tracking.fake_wandb import FakeWandb
from tests.tracking.read_wandb import epochs as of_history
from tests.tracking.read_wandb import history
from tests.tracking.test_wandb import known

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
    "settings in the working directory": {},
    "settings there, no text": {},
    "netrc": {"NETRC": "garbage"},
    "netrc, no text": {"NETRC": "garbage"},
}
TEXT = b"[[[\nno settings\n= 5\nmachine\n"
NO_TEXT = b"\x00\xff" + TEXT


@pytest.mark.parametrize("case", quick("unknown mode", "settings file", of=HOSTILE))
def test_whatever_is_set_the_run_is_made_and_one_line_says_what_failed(
    command: Command, small: Small, tmp_path: Path, case: str
) -> None:
    environ = {"WANDB_MODE": "", "HOME": str(tmp_path)} | HOSTILE[case]
    for name in ("wandb", "garbage"):
        (tmp_path / name).mkdir()
    if case == "settings file":
        (tmp_path / "garbage" / "settings").write_bytes(NO_TEXT)
        environ["WANDB_CONFIG_DIR"] = str(tmp_path / "garbage")
    if case.startswith(("settings in", "settings there")):
        (tmp_path / "wandb" / "settings").write_bytes(NO_TEXT if "no text" in case else TEXT)
    if case.startswith("netrc"):
        (tmp_path / "garbage" / "netrc").write_bytes(NO_TEXT if "no text" in case else TEXT)
        environ["NETRC"] = str(tmp_path / "garbage" / "netrc")
    done = command(*small, "stage=train", "train.epochs=1", place=tmp_path, **environ)
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr
    printed = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    said = [line for line in printed if "W&B" in line or line.startswith(("wandb: WARNING", "wandb: ERROR"))]
    assert len(said) <= 1, said
    assert by_stage(command.runs)["train"].done


def test_a_service_that_hangs_is_ended_by_force(tmp_path: Path) -> None:
    """W&B waits for its service at the end of the process; one that is stopped would be waited for without end."""
    code = """
        import os, signal, wandb
        from pruning.tracking import guard
        service = wandb.setup()._connection._proc._process
        os.kill(service.pid, signal.SIGSTOP)
        guard.ENDING = 1
        guard.let_go()
        print(service.poll())
    """
    environ = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environ, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"{-signal.SIGKILL}\n", 0)


def test_a_wandb_that_cannot_be_imported_stops_nothing(command: Command, small: Small, tmp_path: Path) -> None:
    (tmp_path / "broken" / "wandb").mkdir(parents=True)
    (tmp_path / "broken" / "wandb" / "__init__.py").write_text("raise SystemExit('no')")
    words = (*small, "stage=train", "train.epochs=1")
    done = command(*words, cold=True, WANDB_MODE="offline", PYTHONPATH=str(tmp_path / "broken"))
    assert (done.returncode, done.stderr) == (0, "")
    assert sum("W&B has failed, the local record goes on alone: no" in line for line in done.stdout.splitlines()) == 1


def offline(command: Command) -> list[Path]:
    """Return what is kept for `wandb sync`."""
    return [*(command.runs / ".wandb" / "wandb").glob("offline-run-*/run-*.wandb")]


def begun(command: Command, words: Small, server: FakeWandb) -> Running:
    """Start a command that reports to the server, and wait for its fourth epoch."""
    running = command.start(*words, **server.environment)
    running.until(lambda: epochs(command.runs) >= 4)
    return running


def sync(command: Command, server: FakeWandb) -> None:
    given = os.environ | server.environment | {"HOME": str(command.home)}
    environ = {key: value for key, value in given.items() if value}
    for file in offline(command):
        call = [sys.executable, "-m", "wandb", "sync", str(file.parent)]
        synced = subprocess.run(call, env=environ, cwd=command.home, check=False, capture_output=True, text=True)
        assert synced.returncode == 0, synced.stdout + synced.stderr


@slow
def test_epochs_that_went_online_are_not_written_again_when_the_server_has_gone(
    command: Command, small: Small, wandb_server: FakeWandb
) -> None:
    """What is synced afterwards is appended by the server, so it must not hold them."""
    words = (*small, "stage=train", "train.epochs=12")
    running = begun(command, words, wandb_server)
    running.kill(signal.SIGTERM)  # sends its rows first
    running.wait()
    (seen,) = wandb_server.runs.values()
    before = [row["epoch"] for row in of_history(seen.history)]
    assert 4 <= len(before) < 12
    done = command(*words, WANDB_MODE="offline")
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = offline(command)
    kept = [row["epoch"] for row in of_history(history(file))]
    assert before + kept == list(range(1, 13))
    sync(command, wandb_server)
    (seen,) = wandb_server.runs.values()
    assert sorted(row["epoch"] for row in of_history(seen.history)) == list(range(1, 13))
    assert json.loads((by_stage(command.runs)["train"].path / "result.json").read_text())["epochs"] == 12


@slow
def test_a_server_that_dies_in_the_midst_costs_epochs_at_most(
    command: Command, small: Small, wandb_server: FakeWandb
) -> None:
    """What was handed to the client is not sent again; the result is, and what comes later is kept whole."""
    running = begun(command, (*small, "stage=prune", "train.epochs=40"), wandb_server)
    wandb_server.kill()
    done = running.wait()
    assert done.returncode == 0
    assert all(line.startswith("Failed to export ") for line in done.stderr.splitlines()), done.stderr
    assert sum("W&B" in line for line in done.stdout.splitlines()) == 1, done.stdout
    wandb_server.revive()
    sync(command, wandb_server)
    for run in by_stage(command.runs).values():
        found = result(run)
        seen = wandb_server.runs[found["id"]]
        there = [row["epoch"] for row in of_history(seen.history)]
        assert there == list(range(1, len(there) + 1))
        assert {key: seen.summary.get(key) for key in known(run)} == known(run)
        assert wandb_server.artifact(f"model-{found['id']}")


@slow
def test_the_next_attempt_sends_what_a_server_that_died_has_not(
    command: Command, small: Small, wandb_server: FakeWandb
) -> None:
    words = (*small, "stage=train", "train.epochs=12")
    running = begun(command, words, wandb_server)
    wandb_server.kill()
    running.kill(signal.SIGKILL)
    running.wait()
    wandb_server.revive()
    done = command(*words, **wandb_server.environment)
    assert (done.returncode, done.stderr) == (0, "")
    (seen,) = wandb_server.runs.values()
    assert of_history(seen.history) == by_stage(command.runs)["train"].rows()
    assert not offline(command)
