"""The commands of the README run as they stand there: they are planned, which composes and checks them."""

import re
import shlex

import pytest
import torch

from pruning import archs
from tests.commands import ROOT, Command

README = (ROOT / "README.md").read_text()
JOINED = README.replace("\\\n", " ")
COMMANDS = sorted({line.partition("  #")[0].strip() for line in re.findall(r"^python main\.py .*$", JOINED, re.M)})


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line: str, command: Command, folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    checkpoint = tmp_path / "checkpoint.pth.tar"
    if "resume=" in line:
        torch.save({"state_dict": archs.build("vgg16", 10).state_dict(), "epoch": 3}, checkpoint)
    words = ["hydra.mode=MULTIRUN" if word == "-m" else word for word in shlex.split(line)[2:]]
    words = [word for word in words if not word.startswith("hydra/launcher")]
    words = [f"dataset.root={folder}" if word.startswith("dataset.root=") else word for word in words]
    words = [f"resume={checkpoint}" if word.startswith("resume=") else word for word in words]
    planned = command(*words, "hydra/launcher=plan")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert ("nothing has been run" if "stage=status" in words else "cells: ") in planned.stdout


def test_there_are_commands_and_every_option_is_named() -> None:
    assert len(COMMANDS) >= 9
    for group in ("dataset", "arch", "recipe", "stage"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"`{path.stem}`" in README, path


def test_ci_calls_the_test_command_of_the_readme() -> None:
    setup, test = re.search(r"^(pip install uv) && (uv run pytest) ", README, re.M).groups()  # type: ignore[union-attr]
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert setup in lines and test in lines
