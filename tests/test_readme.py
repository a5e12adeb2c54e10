"""The commands of README and docs/ run as they stand there: they are planned, which composes and checks them."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from pruning import archs, masks
from pruning.checkpoints import Checkpoint
from pruning.data import Data, train_batches
from pruning.masks import CRITERIA
from pruning.stages import PruneRecipe
from tests.archs.test_foreign import ODD
from tests.commands import ROOT, Command
from tests.docs import run

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> set[str]:
    """Return the commands of a page, without the comment behind them."""
    joined = page.read_text().replace("\\\n", " ")
    return {line.partition("  #")[0].strip() for line in re.findall(r"^python main\.py .*$", joined, re.M)}


COMMANDS = sorted(set().union(*map(commands, PAGES)))


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line: str, command: Command, folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pth.tar"
    if "resume=" in line:
        classes = 7 if "reset_head" in line else 3 if "image_folder" in line else 10
        network = archs.build(archs.read({"_target_": "torchvision.models.resnet18"}), classes)
        weights = (network if "arch=resnet18" in line else archs.build("vgg16", 10)).state_dict()
        torch.save({"state_dict": weights, "epoch": 3}, checkpoint)
    words = ["hydra.mode=MULTIRUN" if word == "-m" else word for word in shlex.split(line)[2:]]
    words = [word for word in words if not word.startswith(("hydra/launcher", "hydra.launcher"))]
    words = [f"dataset.root={folder}" if word.startswith("dataset.root=") else word for word in words]
    (tmp_path / "PATH.py").write_text(ODD.read_text() + "\n\nNet = Odd\n")
    words = [f"arch.file={tmp_path}/PATH.py" if word.startswith("arch.file=") else word for word in words]
    words = [f"resume={checkpoint}" if word.startswith("resume=") else word for word in words]
    if "prune.mask_from=" in line:
        network = archs.build("resnet20", 10)
        mask = masks.prune(network, 0.8)
        Checkpoint(masks.masked(network.state_dict(), mask), mask, "resnet20", 10, {}).save(
            tmp_path / "pruned.safetensors"
        )
        words = [f"prune.mask_from={tmp_path}/pruned.safetensors" if "mask_from=" in word else word for word in words]
    words = [f"report.out={tmp_path}/report" if word.startswith("report.out=") else word for word in words]
    planned = command(*words, "hydra/launcher=plan")
    assert (planned.returncode, planned.stderr) == (0, "")
    looks = {
        "stage=status": "nothing has been run",
        "stage=report": "report: ",
        "stage=export": "model.onnx",
        "stage=check": "all parameters",
    }
    assert next((looks[word] for word in words if word in looks), "cells: ") in planned.stdout


def test_the_example_of_a_criterion_works(tiny: Data) -> None:
    try:
        run(ROOT / "README.md")
        recipe = PruneRecipe.read({"percent": 0.5, "criterion": "gradient_times_weight", "batches": 2}, "prune")
        assert recipe.non_defaults() == {"percent": 0.5, "criterion": "gradient_times_weight", "batches": 2}
        network = archs.build("resnet20", 3)
        archs.initialise(network, torch.Generator().manual_seed(0))
        before = {name: value.clone() for name, value in network.state_dict().items()}
        criterion = CRITERIA["gradient_times_weight"].with_settings(**recipe.arguments("criterion"))
        batches = list(train_batches(tiny, batch_size=8, seed=0, epoch=0))
        mask = masks.prune(network, 0.5, criterion, batches=batches)
        assert masks.sparsity(mask) == pytest.approx(0.5, abs=1e-5)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    finally:
        CRITERIA.pop("gradient_times_weight", None)


def test_there_are_commands_and_every_option_is_named() -> None:
    assert len(commands(PAGES[0])) >= 9
    for group in ("dataset", "arch", "recipe", "stage", "levels"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"`{path.stem}`" in README, path


def test_ci_calls_the_test_command_of_the_readme() -> None:
    found = re.search(r"^(pip install uv) && (uv run pytest) ", README, re.M)
    assert found
    assert set(found.groups()) <= set((ROOT / ".ci" / "run").read_text().splitlines())
