"""The networks in zoo/: what their names and cards say is what they are, and steps start from them."""

import re
from pathlib import Path

import pytest

import pruning
from pruning import masks
from pruning.env import Env
from pruning.files import sha256
from pruning.pipeline import plan
from tests.commands import ROOT
from tests.pipeline.made import composed

ZOO = ROOT / "zoo"
FILES = sorted(ZOO.glob("*/*.safetensors"))
README = (ZOO / "README.md").read_text()


def test_each_folder_has_its_networks_and_their_cards() -> None:
    assert {path.parent.name for path in FILES} == {"resnet20-cifar10-jpeg"}
    for path in FILES:
        card = path.with_name(path.name.removesuffix(".sparse.safetensors") + ".md")
        assert path.name in card.read_text()
        assert not re.search(r"(?<![\w.])/(tmp|work|root|home)/", card.read_text())  # of the machine it was made on


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_what_the_table_says(path: Path) -> None:
    found = pruning.load(path)
    (row,) = [line for line in README.splitlines() if f"({path.relative_to(ZOO)})" in line]
    _, sparsity, top1, size, digest, _ = (field.strip(" `%") for field in [*row.strip("|").split("|"), ""])
    assert sparsity == f"{masks.sparsity(found.mask):.4f}"
    assert size.replace(",", "") == str(path.stat().st_size)
    assert sha256(path).startswith(digest)
    card = path.with_name(path.name.removesuffix(".sparse.safetensors") + ".md").read_text()
    assert f"{top1} %" in card


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_step_starts_from_it(path: Path, tmp_path: Path) -> None:
    config = composed(f"resume={path}", "prune.percent=0.98", "dataset=cifar10", "finetune.epochs=1")
    config["dataset"]["name"] = "digits"  # no images are needed to plan
    steps = plan.chain(config, Env(runs=tmp_path), lambda wanted: "fp32")
    assert [step.stage for step in steps] == ["prune", "finetune"]
