import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pruning.criteria import CRITERIA
from pruning.recipes import RECIPES

from pruning import archs, data, plan
from pruning.runs import Env, Step

CONF = Path(__file__).parents[1] / "conf"
NAMES = ("dataset", "arch", "stage", "prune", "recipe")
GROUPS = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in NAMES}
NO_FILES = ("digits", "cifar10", "cifar100")
CHAINS = {"train": ["train"], "prune": ["train", "prune"], "finetune": ["train", "prune", "finetune"]}
EPOCHS = {"quick": (8, 5), "original": (300, 40), "rethinking": (160, 40)}
OF_DATASET = {"digits": "quick", "cifar10": "original", "cifar100": "original", "image_folder": "original"}


@pytest.fixture(autouse=True, scope="module")
def hydra_reads_conf() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> dict[str, Any]:
    """Return what main.run gets."""
    config = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    assert isinstance(config, dict)
    return config  # type: ignore[return-value]


def steps(*overrides: str) -> list[Step]:
    config = composed(*overrides)
    return plan.chain(config, Env.of(config["env"]), precision=lambda wanted: "fp32")


PAIRS = [
    (f"{a}={x}", f"{b}={y}")
    for a, b in [*itertools.product(["dataset"], ["arch", "stage", "prune", "recipe"]), ("recipe", "stage")]
    for x, y in itertools.product(GROUPS[a], GROUPS[b])
]


def test_every_choice_of_every_group_is_there():
    assert GROUPS["arch"] == sorted(archs.BUILDERS)
    assert GROUPS["dataset"] == sorted(data.NAMES)
    assert GROUPS["stage"] == sorted([*plan.CHAINS, "status"])
    assert GROUPS["prune"] == sorted(CRITERIA)
    assert GROUPS["recipe"] == sorted(EPOCHS)


def test_every_yaml_is_the_config_or_in_a_group_that_is_tested():
    known = {CONF / "config.yaml"} | {CONF / group / f"{name}.yaml" for group in GROUPS for name in GROUPS[group]}
    assert {path for path in CONF.rglob("*.yaml") if "hydra" not in path.parts} == known


@pytest.mark.parametrize("overrides", PAIRS, ids=",".join)
def test_choices_compose_and_are_planned(overrides):
    config = composed(*overrides)
    chosen = dict(override.split("=") for override in overrides)
    assert set(config) == {"dataset", "arch", "stage", "seed", "resume", "env", *RECIPES}
    for group, name in chosen.items():
        if group in ("dataset", "arch", "stage"):
            assert config[group]["name"] == name
    recipe = chosen.get("recipe", OF_DATASET[config["dataset"]["name"]])
    assert (config["train"]["epochs"], config["finetune"]["epochs"]) == EPOCHS[recipe]
    if config["dataset"]["name"] in NO_FILES and config["stage"]["name"] != "status":  # which only looks
        chain = plan.chain(config, Env.of(config["env"]), precision=lambda wanted: "fp32")
        assert [step.stage for step in chain] == CHAINS[config["stage"]["name"]]
        assert [step.parent for step in chain] == [None, *(step.id for step in chain[:-1])]
    else:
        assert {stage: RECIPES[stage].read(config[stage]) for stage in RECIPES}


def test_the_defaults():
    config = composed()
    assert config["dataset"]["name"] == "digits" and config["arch"]["name"] == "resnet20"
    assert config["stage"]["name"] == "finetune" and config["seed"] == 0 and config["resume"] is None
    assert config["prune"] == {"percent": 0.8, "criterion": "magnitude", "scope": "global", "layers": "conv"}


@pytest.mark.parametrize("arch", GROUPS["arch"])
def test_every_arch_is_instantiated(arch):
    config = compose("config", overrides=[f"arch={arch}"])
    with torch.device("meta"):
        model = hydra.utils.instantiate(config.arch, num_classes=10)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
        expected = archs.build(arch, 10)
    assert [(k, v.shape) for k, v in model.state_dict().items()] == [
        (k, v.shape) for k, v in expected.state_dict().items()
    ]


@pytest.mark.parametrize("dataset, recipe", OF_DATASET.items())
def test_the_recipe_follows_the_dataset(dataset, recipe):
    assert composed(f"dataset={dataset}")["train"]["epochs"] == EPOCHS[recipe][0]


@pytest.mark.parametrize("recipe, dataset", list(itertools.product(GROUPS["recipe"], GROUPS["dataset"])))
def test_a_recipe_that_is_given_is_taken_in_either_order(recipe, dataset):
    both = [f"recipe={recipe}", f"dataset={dataset}"]
    one, other = composed(*both), composed(*reversed(both))
    assert one == other
    assert (one["train"]["epochs"], one["finetune"]["epochs"]) == EPOCHS[recipe]


def test_a_value_that_is_given_is_taken_whatever_the_recipe():
    for overrides in itertools.permutations(["recipe=rethinking", "dataset=cifar100", "train.epochs=3"]):
        config = composed(*overrides)
        assert (config["train"]["epochs"], config["train"]["batch_size"]) == (3, 64)


def test_the_recipes_are_those_of_the_papers():
    original, rethinking = composed("recipe=original"), composed("recipe=rethinking")
    for config, epochs, batch_size, weight_decay in [(original, 300, 128, 5e-4), (rethinking, 160, 64, 1e-4)]:
        expected = {
            "epochs": epochs,
            "batch_size": batch_size,
            "weight_decay": weight_decay,
            "momentum": 0.9,
            "lr": 0.1,
        }
        expected |= {
            "optimizer": "sgd",
            "nesterov": False,
            "schedule": "steps",
            "milestones": [0.5, 0.75],
            "decay": 0.1,
        }
        assert config["train"].items() >= expected.items()
    one_cycle = {"schedule": "cosine", "lr": 0.1, "warmup": 0.1, "start": 0.1, "end": 0.001, "weight_decay": 1e-4}
    assert original["finetune"].items() >= (one_cycle | {"epochs": 40, "batch_size": 128}).items()
    constant = {"schedule": "constant", "lr": 0.001, "weight_decay": 1e-4, "epochs": 40, "batch_size": 64}
    assert rethinking["finetune"].items() >= constant.items()


def test_finetuning_has_the_precision_of_training():
    assert composed("train.precision=fp32")["finetune"]["precision"] == "fp32"


@pytest.mark.parametrize(
    "override, changed",
    [
        ("arch=resnet32", [True, True, True]),
        ("seed=1", [True, True, True]),
        ("train.lr=0.04", [True, True, True]),
        ("dataset.flip=true", [True, True, True]),
        ("prune.percent=0.3", [False, True, True]),
        ("prune=random", [False, True, True]),
        ("finetune.lr=0.001", [False, False, True]),
        ("env.runs=elsewhere", [False, False, False]),
        ("env.device=cpu", [False, False, False]),
        ("env.wandb.mode=disabled", [False, False, False]),
    ],
)
def test_what_a_choice_makes_anew(override, changed):
    pairs = zip(steps(), steps(override), strict=True)
    assert [a.id != b.id for a, b in pairs] == changed
