"""sweeps/wandb/dashboard.py: the panels of the W&B report have keys that our runs have."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pruning.execution.recorder import about
from tests.commands import ROOT
from tests.helpers import slow
from tests.runs.steps import PRUNED, TUNED, figures, place
from tests.tracking.fake_wandb import FakeWandb


def dashboard(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    given = {key: value for key, value in (os.environ | environ).items() if value}
    script = [sys.executable, str(ROOT / "sweeps" / "wandb" / "dashboard.py"), *words]
    return subprocess.run(script, cwd=ROOT, env=given, capture_output=True, text=True)


def panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]


def axes(spec: dict[str, Any]) -> set[tuple[str, ...]]:
    """Return (x, y) of the scatter plots, and what the bars and lines show."""
    configs = [panel["config"] for panel in panels(spec)]
    found = {(each["xAxis"], each["yAxis"]) for each in configs if "yAxis" in each}
    return found | {tuple(each["metrics"]) for each in configs if each.get("metrics")}


@slow
def test_the_panels_have_keys_of_our_runs(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    done = dashboard("--dry-run", "--group", "ratios-s1", HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    spec = json.loads(done.stdout)
    over = {("summary:sparsity", f"summary:{key}") for key in ("test_top1", "before.test_top1", "macs_nonzero")}
    assert axes(spec) >= over
    found = figures(TUNED) | {"before": dict.fromkeys(("test_top1", "test_top5", "test_loss"), 0.0)}
    flat = {f"before.{key}" for key in found["before"]} | found.keys() | {"layers", "cells", "epoch"}
    summary = set(re.findall(r'"summary:([^"]+)"', done.stdout))
    assert summary <= flat, summary - flat
    unhashed = {key: value for key, value in PRUNED.to_json().items() if key not in PRUNED.spec}
    place(tmp_path, PRUNED, config={"spec": PRUNED.spec, "unhashed": unhashed})
    config = about(TUNED, tmp_path)["config"]
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    groups = [key["name"] for grid in grids for runs in grid["runSets"] for key in runs["grouping"]]
    assert {name.removesuffix(".value") for name in groups} == {"criterion", "percent"} <= config.keys()
    filters = [each for grid in grids for runs in grid["runSets"] for each in runs["filters"]["filters"]]
    assert {each["value"] for each in filters if each["key"]["name"] == "group"} == {"ratios-s1"}
    assert {each["value"] for each in filters if each["key"]["name"] == "jobType"} == {"finetune", "report"}


@slow
def test_it_is_saved_as_a_report_of_the_project(wandb_server: FakeWandb, tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    done = dashboard("--entity", "ours", HOME=str(tmp_path), **wandb_server.environment)
    assert done.returncode == 0, done.stderr
    (view,) = wandb_server.views
    assert (view["entityName"], view["projectName"], view["type"]) == ("ours", "pruning", "runs")
    assert len(axes(json.loads(view["spec"]))) >= 5
    assert done.stdout.strip().startswith("http")


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "wandb_workspaces.py").write_text("raise ImportError('no such package')")
    done = dashboard("--dry-run", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.endswith("pip install wandb-workspaces\n")
