"""Every file of sweeps/ composes and plans, says what its header must say, and costs what it says."""

import re
from pathlib import Path

import pytest
import yaml

from tests.commands import ROOT, Command

FILES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


def test_the_named_sweeps_are_there() -> None:
    assert {"ratios", "paper_table", "smoke"} <= set(FILES)
    assert (ROOT / "conf" / "sweep").resolve() == ROOT / "sweeps"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_header_says_claim_command_and_cost(path: Path) -> None:
    said = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Claim:", "Command:", "Cost:"):
        assert any(line.startswith(f"# {word}") for line in said), word


@pytest.mark.parametrize("name", FILES)
def test_it_plans(name: str, command: Command) -> None:
    done = command(f"+sweep={name}", "hydra/launcher=plan")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^cells: \d+$", done.stdout, re.M)
    assert not command.runs.exists()


def test_the_paper_table_has_the_published_cells(command: Command) -> None:
    done = command("+sweep=paper_table", "hydra/launcher=plan")
    assert "cells: 48" in done.stdout and "(24 train, 24 prune, 48 finetune)" in done.stdout
    epochs, _, alone, _ = map(int, re.findall(r"\d+", done.stdout.partition("epochs: ")[2])[:4])
    header = (ROOT / "sweeps" / "paper_table.yaml").read_text().replace(",", "")
    assert f"{epochs} epochs" in header and f"against {alone}" in header


def test_a_named_sweep_can_be_changed_on_the_command_line(command: Command) -> None:
    done = command("+sweep=ratios", "prune.percent=0.5", "seed=4,5", "arch=vgg16", "hydra/launcher=plan")
    assert "cells: 2" in done.stdout and "arch=vgg16" not in done.stdout.partition("train.")[0].partition("seed=4")[0]


def test_the_wandb_sweep_gives_main_what_it_knows(command: Command) -> None:
    sweep = yaml.safe_load((ROOT / "sweeps" / "wandb" / "ratios.yaml").read_text())
    assert sweep["program"] == "main.py" and "${args_no_hyphens}" in sweep["command"]
    cell = [f"{key}={values['values'][-1]}" for key, values in sweep["parameters"].items()]
    assert command(*cell, "hydra/launcher=plan").returncode == 0
