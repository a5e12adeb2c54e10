"""Every file of sweeps/ composes and plans, says what its header must say, and costs what it says."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.commands import ROOT, Command
from tests.helpers import quick

SIZES = {
    "published_table": (72, "24 train, 120 prune, 144 finetune, 24 distill"),
    "retraining": (150, "5 train, 25 prune, 50 finetune, 25 lr_rewind, 25 rewind, 25 scratch_e, 25 scratch_b"),
    "controls": (150, "5 train, 125 prune, 125 lr_rewind, 25 scratch_e"),
    "criteria": (200, "5 train, 200 prune, 200 finetune"),
}
FILES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


def test_the_named_sweeps_are_there() -> None:
    assert {"ratios", "published_table", "retraining", "controls", "criteria", "smoke"} <= set(FILES)
    assert (ROOT / "conf" / "sweep").resolve() == ROOT / "sweeps"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_header_says_claim_command_and_cost(path: Path) -> None:
    said = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Claim:", "Command:", "Cost:"):
        assert any(line.startswith(f"# {word}") for line in said), word


@pytest.mark.parametrize("name", quick("smoke", of=FILES))
def test_it_plans(name: str, command: Command) -> None:
    done = command(f"+sweep={name}", "hydra/launcher=plan")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^cells: \d+$", done.stdout, re.M)
    assert not command.runs.exists()
    if name in SIZES:  # the cells that it claims, at the cost that its header says
        cells, steps = SIZES[name]
        assert f"cells: {cells}\n" in done.stdout
        assert f"({steps})" in done.stdout
        epochs, _, alone = re.findall(r"\d+", done.stdout.partition("epochs: ")[2])[:3]
        header = " ".join((ROOT / "sweeps" / f"{name}.yaml").read_text().replace(",", "").replace("\n#", " ").split())
        assert f"{epochs} epochs" in header
        assert f"against {alone}" in header


def test_a_named_sweep_can_be_changed_on_the_command_line(command: Command) -> None:
    done = command("+sweep=ratios", "prune.percent=0.5", "seed=4,5", "arch=vgg16", "hydra/launcher=plan")
    assert "cells: 2" in done.stdout
    assert "(2 train, 2 prune, 2 finetune)" in done.stdout


def test_the_wandb_sweep_gives_main_what_it_knows(command: Command) -> None:
    sweep: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "sweeps" / "wandb" / "ratios.yaml"))
    assert sweep["program"] == "main.py"
    assert "${args_no_hyphens}" in sweep["command"]
    cell = [f"{key}={values['values'][-1]}" for key, values in sweep["parameters"].items()]
    assert command(*cell, "hydra/launcher=plan").returncode == 0
