import itertools
import re
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf

from pruning import archs
from pruning.data import DATASETS
from pruning.env import Env
from pruning.errors import UserError
from pruning.masks import CRITERIA, Levels
from pruning.pipeline import plan
from pruning.runs import Step
from pruning.settings import Settings
from pruning.stages import STAGES, PruneRecipe
from pruning.training import TrainRecipe
from tests.commands import ROOT
from tests.pipeline.made import composed

CONF = ROOT / "conf"
EPOCHS = {"quick": (8, 5), "original": (300, 40), "rethinking": (160, 40)}
OF_DATASET = {"digits": "quick", "cifar10": "original", "cifar100": "original", "image_folder": "original"}
GROUPS = {
    "arch": [*archs.ARCHS],
    "dataset": [*DATASETS],
    "fit": ["neutral"],
    "levels": ["iterative", "one_shot"],
    "prune": [*CRITERIA],
    "recipe": [*EPOCHS],
    "stage": [*plan.RESULTS, "status"],
}


def steps(*overrides: str) -> list[Step]:
    config = composed(*overrides)
    return plan.chain(config, Env.from_config(config["env"]), lambda wanted: "fp32")


def epochs(config: dict[str, Any]) -> tuple[int, int]:
    return config["train"]["epochs"], config["finetune"]["epochs"]


def test_each_file_is_the_config_or_a_choice_that_is_tested() -> None:
    chosen = {CONF / group / f"{name}.yaml" for group, names in GROUPS.items() for name in names}
    found = {path for path in CONF.rglob("*.yaml") if "hydra" not in path.parts}
    assert found == chosen | {CONF / "config.yaml"}


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in GROUPS.items() if g != "fit" for n in names])
def test_each_choice_is_composed_and_planned(group: str, name: str, folder: Path) -> None:
    choice = (f"{group}={name}", *([f"dataset.root={folder}"] if name == "image_folder" else []))
    config = composed(*choice)
    assert set(config) == {"dataset", "arch", "stage", "levels", "seed", "resume", "env", *STAGES}
    if group not in ("recipe", "levels"):
        assert config[group]["criterion" if group == "prune" else "name"] == name
    assert epochs(config) == EPOCHS[name if group == "recipe" else OF_DATASET[config["dataset"]["name"]]]
    if name != "status":  # which only looks
        made = [step.stage for step in steps(*choice)]
        assert made == ["train", *["prune", "finetune"] * (3 if name == "iterative" else 1)][: len(made)]
        assert made[-1] == config["stage"]["name"]


def test_the_defaults() -> None:
    config = composed()
    assert [config[group]["name"] for group in ("dataset", "arch", "stage")] == ["digits", "resnet20", "finetune"]
    assert (config["seed"], config["resume"]) == (0, None)
    assert config["prune"] == {"percent": 0.8, "criterion": "magnitude", "scope": "global", "layers": "conv"}


NEEDED = {"epochs": 1, "batch_size": 1, "lr": 1.0}


@pytest.mark.parametrize(
    ("file", "settings", "own"),
    [
        ("fit/neutral", TrainRecipe(**NEEDED), NEEDED),  # type: ignore[arg-type]
        ("prune/magnitude", PruneRecipe(sparsity=0.8), {}),
        ("levels/one_shot", Levels(), {}),
        ("config", Env(), {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_file_shows_every_setting_with_its_default(file: str, settings: Settings, own: dict[str, Any]) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{file}.yaml"))
    node = node["env"] if file == "config" else node
    assert {key for key, value in node.items() if value == "???"} == own.keys()
    assert node.keys() == {settings.KEYS.get(name, name) for name in settings.values()}
    assert type(settings).read(node | own, "it") == settings


@pytest.mark.parametrize("arch", GROUPS["arch"])
def test_each_arch_is_instantiated(arch: str) -> None:
    with torch.device("meta"):
        model = hydra.utils.instantiate(composed(f"arch={arch}")["arch"], num_classes=7)
        shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in (model, archs.build(arch, 7))]
    assert shapes[0] == shapes[1]


# recipes


@pytest.mark.parametrize("recipe", GROUPS["recipe"])
@pytest.mark.parametrize("stage", plan.RESULTS)
def test_each_recipe_is_that_of_the_steps_of_each_result(recipe: str, stage: str) -> None:
    chain = steps(f"recipe={recipe}", f"stage={stage}")
    expected = {"train": EPOCHS[recipe][0], "prune": 0, "finetune": EPOCHS[recipe][1]}
    assert [(step.stage, step.epochs) for step in chain] == [*expected.items()][: len(chain)]
    assert chain[-1].stage == stage


def test_a_recipe_that_is_given_is_taken_whatever_the_dataset_brings_and_a_value_whatever_the_recipe() -> None:
    for recipe, dataset in itertools.product(GROUPS["recipe"], GROUPS["dataset"]):
        both = [f"recipe={recipe}", f"dataset={dataset}"]
        assert epochs(composed(*both)) == EPOCHS[recipe]
        assert composed(*reversed(both)) == composed(*both)
    for overrides in itertools.permutations(["recipe=rethinking", "dataset=cifar100", "train.epochs=3"]):
        train = composed(*overrides)["train"]
        assert (train["epochs"], train["batch_size"]) == (3, 64)


def test_finetuning_has_the_precision_of_training() -> None:
    assert composed("train.precision=fp32")["finetune"]["precision"] == "fp32"


# what no setting is called


@pytest.mark.parametrize(
    ("typo", "guess"),
    [
        ("arch.nam", "name"),
        ("stage.nam", "name"),
        ("levels.cout", "count"),
        ("prune.pecent", "percent"),
        ("train.epoch", "epochs"),
        ("finetune.epoch", "epochs"),
        ("dataset.flips", "flip"),
        ("env.thread", "threads"),
        ("env.wandb.tag", "tags"),
    ],
)
def test_an_unknown_key_of_each_group_is_refused_in_one_line(typo: str, guess: str) -> None:
    group, _, key = typo.rpartition(".")
    with pytest.raises(UserError) as caught:
        steps(f"+{typo}=1")
    text = str(caught.value)
    assert text.startswith(f"a setting of {group} must be one of ")
    assert text.endswith(f", got {key!r}; did you mean {guess}?")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("stage=train", "prune.percent=30"), "prune.percent must be in [0, 1), got 30"),
        (("stage=train", "+finetune.foo=1"), "a setting of finetune must be one of"),
        (("stage=prune", "finetune.lr=-1"), "finetune.lr must be > 0, got -1"),
    ],
)
def test_stages_that_the_result_does_not_need_are_checked_too(
    overrides: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(text)}"):
        plan.chain(composed(f"env.runs={tmp_path}", *overrides), Env(runs=tmp_path))
