"""stage=sync: what is done here and not in W&B is sent, once; and the lineage that W&B draws."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

from pruning.runs import Run
from pruning.runs.records import record_sweep
from pruning.tracking import GroupReport, log_report
from tests.commands import Command
from tests.helpers import by_stage, result, slow
from tests.helpers import epochs as saved
from tests.tracking.fake_wandb import FakeWandb
from tests.tracking.read_wandb import epochs
from tests.tracking.test_wandb import known

Small = tuple[str, ...]
STAGES = ("train", "prune", "finetune")


def sync(command: Command, server: FakeWandb) -> list[str]:
    """Return the lines of a stage=sync that succeeds."""
    done = command("stage=sync", **server.environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def is_whole(server: FakeWandb, run: Run) -> None:
    """The server must have all epochs once, one result, one picture, one table, one model, and who it came from."""
    found = result(run)
    seen = server.runs[found["id"]]
    assert epochs(seen.history) == run.rows()
    assert {key: seen.summary.get(key) for key in known(run)} == known(run)
    assert [sum(key in row for row in seen.history) for key in ("picture", "layers")] == [1, int(found["level"] > 0)]
    model = server.artifact(f"model-{found['id']}")
    assert server.uploads[f"/storage/{model['id']}/model.safetensors"] == run.model.read_bytes()
    parent = [server.artifact(f"model-{found['parent']}")["id"]] if found["parent"] else None
    assert (server.used.get(found["id"]), seen.exit_code) == (parent, 0)


@slow
def test_what_the_server_lacks_is_sent_once_whatever_the_mode_was(
    command: Command, small: Small, wandb_server: FakeWandb, tmp_path: Path
) -> None:
    words = (*small, "train.epochs=12")
    running = command.start(*words, "stage=train", **wandb_server.environment)
    running.until(lambda: saved(command.runs) >= 4)
    running.kill(signal.SIGTERM)
    running.wait()
    command(*words, "stage=prune", WANDB_MODE="offline")
    command(*words, WANDB_MODE="disabled")
    runs = by_stage(command.runs)
    steps = [step for run in runs.values() if (step := run.step())]
    record_sweep(command.runs, "ours-s1", steps, steps[:1], {})
    folders = command.runs / ".wandb" / "wandb"
    assert len([*folders.glob("offline-run-*")]) == 2

    first = sync(command, wandb_server)
    sent = [
        "epochs, result, picture, model",
        "result, layers, picture, model",
        "epochs, result, layers, picture, model",
    ]
    expected = [f"{runs[stage].path.name}: sent {what}" for stage, what in zip(STAGES, sent, strict=True)]
    assert [line.partition("] ")[2] for line in first[:3]] == expected
    assert not [*folders.glob("offline-run-*")]
    again = sync(command, wandb_server)
    assert [line.rpartition(": ")[2] for line in again[:3]] == ["is there"] * 3
    whatever = [sys.executable, "-m", "wandb", "sync", str(folders)]
    environ = {key: value for key, value in (os.environ | wandb_server.environment).items() if value}
    subprocess.run(whatever, env=environ, cwd=tmp_path, check=False, capture_output=True)
    for run in runs.values():
        is_whole(wandb_server, run)
    groups = [wandb_server.runs[result(runs[stage])["id"]].about.get("groupName") for stage in STAGES]
    assert groups == [None, "ours-s1", "ours-s1"]  # the first was there

    del wandb_server.runs[result(runs["prune"])["id"]].summary["picture"]
    assert [line.rpartition(": ")[2] for line in sync(command, wandb_server)[:3]] == [
        "is there",
        "sent picture",
        "is there",
    ]


@slow
def test_what_is_damaged_is_named_and_left_out(command: Command, small: Small, wandb_server: FakeWandb) -> None:
    command(*small, "stage=prune")
    runs = by_stage(command.runs)
    runs["prune"].model.write_bytes(b"no model")
    (command.runs / "train-rx").mkdir()
    (command.runs / "train-rx" / "config.json").write_text("{")
    lines = sync(command, wandb_server)
    assert len(lines) == 4
    assert sum(": not sent, " in line and " is damaged: " in line for line in lines) == 2
    assert lines[-1].startswith("W&B has 1 of 3 runs, 1 of them were sent now: ")
    assert set(wandb_server.runs) == {result(runs["train"])["id"]}


@slow
def test_without_a_key_or_a_server_one_line_says_so(command: Command, wandb_server: FakeWandb, tmp_path: Path) -> None:
    key = {"WANDB_MODE": "", "HOME": str(tmp_path)}
    wandb_server.refuses = True
    for environ, said in (
        (key, "error: there is no key for W&B: run `wandb login`, or set WANDB_API_KEY"),
        (wandb_server.environment, "error: W&B cannot be reached: "),
        (wandb_server.environment | {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "error: W&B cannot be reached: "),
    ):
        done = command("stage=sync", **environ)
        (line,) = [line for line in done.stderr.splitlines() if not line.startswith("Failed to export ")]
        assert line.startswith(said)
        assert (done.returncode, done.stdout) == (1, "")


@slow
def test_a_parent_that_is_not_there_is_not_missed(command: Command, small: Small, wandb_server: FakeWandb) -> None:
    command(*small, "stage=train")
    for stage, parent in (("prune", None), ("finetune", "prune")):
        done = command(*small, f"stage={stage}", **wandb_server.environment)
        assert (done.returncode, done.stderr, "W&B" in done.stdout) == (0, "", False)
        used = wandb_server.used.get(result(by_stage(command.runs)[stage])["id"])
        model = parent and wandb_server.artifact(f"model-{result(by_stage(command.runs)[parent])['id']}")["id"]
        assert used == (model and [model])


@slow
def test_the_report_of_a_sweep_is_one_run_of_its_group(command: Command, small: Small, wandb_server: FakeWandb) -> None:
    sweep = (*small, "stage=prune", "train.epochs=1", "hydra.mode=MULTIRUN", "prune.percent=0.3,0.8")
    sweep = (*sweep, "prune=magnitude,random", "hydra.launcher.workers=1")
    for _ in range(2):  # a sweep that ends again changes nothing
        done = command(*sweep, **wandb_server.environment)
        assert (done.returncode, done.stderr) == (0, "")
    (record,) = (command.runs / ".sweeps").glob("*.json")
    assert "W&B" not in done.stdout, done.stdout
    seen = wandb_server.runs[record.stem]
    about = [seen.about[key] for key in ("jobType", "groupName", "displayName")]
    assert (about, seen.exit_code) == (["report", record.stem, record.stem], 0)
    folder = command.runs / "report" / record.stem
    cells = [*csv.DictReader((folder / "cells.csv").read_text().splitlines())]
    (row,) = seen.history
    assert {path.stem for path in folder.glob("*.png")} | {"cells"} <= row.keys()
    assert (row["cells"]["ncols"], row["cells"]["nrows"], len(cells)) == (len(cells[0]), 4, 4)
    methods = {
        run.config["criterion"]["value"] for run in wandb_server.runs.values() if run.about["jobType"] == "prune"
    }
    assert methods == {"magnitude", "random"}
    assert sync(command, wandb_server)[-1] == f"report of {record.stem}: is there"
    del wandb_server.runs[record.stem]
    assert sync(command, wandb_server)[-1] == f"report of {record.stem}: sent"
    assert len(wandb_server.runs[record.stem].history) == 1


def test_a_report_that_w_and_b_does_not_take_is_a_line(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    report = GroupReport("a sweep/1", [{"n": 1}], [])
    for mode in ("disabled", "offline"):
        log_report(report, {"mode": mode}, tmp_path / "file", said.append)
    assert len(said) == 1
    assert said[0].startswith("W&B has not taken the report (")
    assert said[0].endswith("); python main.py stage=sync tries again")
    assert report.id == "a-sweep-1"
