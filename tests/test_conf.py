import itertools
import re
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf

from pruning import archs
from pruning.commands import COMMANDS
from pruning.data import DATASETS
from pruning.env import Env
from pruning.errors import UserError
from pruning.masks import CRITERIA, Levels
from pruning.pipeline import plan, results
from pruning.pipeline.request import NODES
from pruning.runs import Step
from pruning.settings import Settings
from pruning.stages import STAGES, PruneRecipe
from pruning.training import TrainRecipe
from tests.commands import ROOT
from tests.pipeline.made import composed

CONF = ROOT / "conf"
NEEDS_A_RUN = "from_run"  # tests/pipeline/test_lattice.py plans it
UNTRAINED = ("at_init", "gradual", "rigl", "set")  # they begin with an initialisation
EPOCHS = {"quick": (8, 5), "original": (300, 40), "original_code": (300, 40), "rethinking": (160, 40)}
OTHERS = ("resnet18", "mobilenet_v2", "vit_tiny")  # networks of torchvision
OF_DATASET = {
    "digits": "quick",
    "cifar10": "original",
    "cifar100": "original",
    "fashion_mnist": "original",
    "svhn": "original",
    "tiny_imagenet": "original",
    "image_folder": "original",
    "arrays": "original",
    "huggingface": "original",
}
GROUPS = {
    "arch": [*archs.ARCHS, *OTHERS],
    "dataset": [*DATASETS],
    "fit": ["neutral", "as_train", "as_finetune"],
    "levels": ["iterative", "one_shot"],
    "prune": [*CRITERIA, NEEDS_A_RUN],
    "recipe": [*EPOCHS],
    "stage": [*results.RESULTS, *COMMANDS],
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


@pytest.mark.parametrize(
    ("group", "name"), [(g, n) for g, names in GROUPS.items() if g != "fit" for n in names if n != NEEDS_A_RUN]
)
def test_each_choice_is_composed_and_planned(group: str, name: str, folder: Path, npz: Path) -> None:
    place = {
        "image_folder": f"dataset.root={folder}",
        "arrays": f"dataset.file={npz}",
        "huggingface": f"dataset.name={folder}",
    }
    choice = (f"{group}={name}", *([place[name]] if name in place else []))
    config = composed(*choice)
    assert set(config) == {*NODES - {"sweep"}, *STAGES}
    if group not in ("recipe", "levels"):
        key = "criterion" if group == "prune" else "loader" if "loader" in config[group] else "name"
        assert config[group].get(key, name) == name
    dataset = config["dataset"].get("loader", config["dataset"]["name"])
    assert epochs(config) == EPOCHS[name if group == "recipe" else OF_DATASET[dataset]]
    if name not in COMMANDS:  # which only look
        made = [step.stage for step in steps(*choice)]
        retrain = config["stage"]["name"] if group == "stage" and name not in ("train", "prune") else "finetune"
        first = "init" if name in UNTRAINED else "train"
        middle = [] if name == "gradual" else ["prune"]
        assert made == [first, *[*middle, retrain] * (3 if name == "iterative" else 1)][: len(made)]
        assert made[-1] == config["stage"]["name"]


def test_the_defaults() -> None:
    config = composed()
    names = [config[group]["name"] for group in ("dataset", "arch", "stage")]
    assert (names, config["seed"], config["resume"]) == (["digits", "resnet20", "finetune"], 0, None)
    usual = {"percent": 0.8, "criterion": "magnitude", "scope": "global", "layers": "conv", "control": "none"}
    assert config["prune"] == usual | {"include": [], "exclude": [], "mask_from": None}


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
    node: Any = OmegaConf.load(CONF / f"{file}.yaml")
    node = OmegaConf.to_container(node["env"] if file == "config" else node)
    assert {key for key, value in node.items() if value == "???"} == own.keys()
    assert node.keys() == {settings.KEYS.get(name, name) for name in settings.values()}
    assert type(settings).read(node | own, "it") == settings


def test_each_arch_is_instantiated() -> None:
    for arch in archs.ARCHS:
        with torch.device("meta"):
            model = hydra.utils.instantiate(composed(f"arch={arch}")["arch"], num_classes=7)
            named, expected = model.state_dict(), archs.build(arch, 7).state_dict()
        assert {k: v.shape for k, v in named.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize("name", OTHERS)
def test_each_other_network_takes_the_images_it_is_for(name: str) -> None:
    arch = archs.read(composed(f"arch={name}")["arch"])
    assert str(arch) == name
    assert archs.problem(arch, 7, (32, 32) if name == "vit_tiny" else (64, 64), 2) == ""


def test_each_recipe_is_that_of_the_steps_of_each_result() -> None:
    for recipe, stage in itertools.product(EPOCHS, results.RESULTS):
        chain = steps(f"recipe={recipe}", f"stage={stage}")
        dense, tuned = EPOCHS[recipe]
        most = {"scratch_b": 2 * dense}.get(stage, dense)
        last = {"prune": {}, "finetune": {"finetune": tuned}, "distill": {"distill": tuned}}.get(stage, {stage: most})
        expected = ({"init": 0} if stage in UNTRAINED else {"train": dense}) | {"prune": 0} | last
        if stage == "gradual":
            del expected["prune"]
        assert [(step.stage, step.epochs) for step in chain] == [*expected.items()][: len(chain)]
        assert chain[-1].stage == stage


def test_a_recipe_that_is_given_is_taken_whatever_the_dataset_brings_and_a_value_whatever_the_recipe() -> None:
    for recipe, dataset in itertools.product(EPOCHS, DATASETS):
        both = [f"recipe={recipe}", f"dataset={dataset}"]
        assert epochs(composed(*both)) == EPOCHS[recipe]
        assert composed(*reversed(both)) == composed(*both)
    for overrides in itertools.permutations(["recipe=rethinking", "dataset=cifar100", "train.epochs=3"]):
        train = composed(*overrides)["train"]
        assert (train["epochs"], train["batch_size"]) == (3, 64)
    assert composed("train.precision=fp32")["finetune"]["precision"] == "fp32"  # that of training


def test_an_unknown_key_of_each_group_is_refused_in_one_line() -> None:
    typos = {"arch.nam": "name", "stage.nam": "name", "levels.cout": "count", "prune.pecent": "percent"}
    typos |= {"train.epoch": "epochs", "finetune.epoch": "epochs", "dataset.flips": "flip"}
    for typo, guess in (typos | {"env.thread": "threads", "env.wandb.tag": "tags"}).items():
        group, _, key = typo.rpartition(".")
        with pytest.raises(UserError) as caught:
            steps(f"+{typo}=1")
        first, *text, last = str(caught.value).partition(f", got {key!r}; ")
        assert first.startswith(f"a setting of {group} must be one of ")
        assert (last, "\n" in first) == (f"did you mean {guess}?", False), text


def test_stages_that_the_result_does_not_need_are_checked_too() -> None:
    for overrides, text in (
        ("stage=train prune.percent=30", "prune.percent must be in [0, 1), got 30"),
        ("stage=train +finetune.foo=1", "a setting of finetune must be one of"),
        ("stage=prune finetune.lr=-1", "finetune.lr must be > 0, got -1"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(text)}"):
            steps(*overrides.split())


def test_other_ways_of_training_are_as_the_dense_network_is_trained_unless_it_is_said(tmp_path: Path) -> None:
    for stage in ("lr_rewind", "rewind", "scratch_e", "scratch_b"):
        dense, _, last = steps(f"stage={stage}", "recipe=rethinking", "train.lr=0.3", f"{stage}.epochs=7")
        assert last.recipe == {**dense.recipe, "epochs": 7}
        assert [step.stage for step in steps(f"stage={stage}", "levels=iterative")][2] == (
            "finetune" if stage.startswith("scratch") else stage
        )
    given = tmp_path / "resnet20.pth.tar"
    torch.save({"state_dict": archs.build("resnet20", 10).state_dict()}, given)
    assert [step.stage for step in steps("stage=scratch_e", f"resume={given}")] == ["prune", "scratch_e"]
    with pytest.raises(UserError, match="does not say how its network was trained"):
        steps("stage=rewind", f"resume={given}")


def test_patterns_are_checked_before_any_work_and_are_part_of_the_id_in_any_order() -> None:
    given = ("conv1,layer1.*", "layer1.*,conv1,conv1")
    one, other = (steps("stage=prune", f"prune.exclude=[{some}]")[-1] for some in given)
    assert one.id == other.id != steps("stage=prune")[-1].id
    assert one.method == "exclude-conv1-layer1._"
    for override, text in (("exclude=[conv2]", "matches none of the 19 conv layers"), ("include=3", "must be a list")):
        with pytest.raises(UserError, match=rf"^prune\.{override[:7]}.*{text}"):
            steps(f"prune.{override}")


def test_pruning_at_initialisation_plans_no_dense_training(tmp_path: Path) -> None:
    made = steps("stage=at_init", "prune=snip", "recipe=rethinking", "train.lr=0.3", "at_init.epochs=7")
    assert [step.stage for step in made] == ["init", "prune", "at_init"]
    assert made[-1].recipe == {**steps("stage=train", "recipe=rethinking", "train.lr=0.3")[0].recipe, "epochs": 7}
    given = tmp_path / "resnet20.pth.tar"
    torch.save({"state_dict": archs.build("resnet20", 10).state_dict()}, given)
    for wrong, text in (
        (f"resume={given}", "resume= is a network that was trained"),
        ("levels.count=3", "prunes once"),
    ):
        with pytest.raises(UserError, match=text):
            steps("stage=at_init", wrong)


def test_a_distillation_is_finetuned_as_the_levels_are_and_taught_by_all_that_came_before(tmp_path: Path) -> None:
    iterative = ("stage=distill", "levels.at=[0.2,0.5]", "prune.percent=0.8", "finetune.lr=0.3")
    chain = steps(*iterative)
    plain = steps("stage=finetune", *iterative[1:])
    assert [step.id for step in chain[:-1]] == [step.id for step in plain[:-1]]  # all but the last are shared
    assert chain[-1].recipe == {**plain[-1].recipe, "temperature": 4.0, "weight": 0.9}
    assert (chain[-1].parent, chain[-1].sparsity) == (chain[-2].id, 0.8)
    teachers = {"dense": chain[0].id, "level 1": chain[2].id, "level 2": chain[4].id}
    assert chain[-1].inputs == teachers
    assert steps(*iterative, "distill.teachers=dense")[-1].inputs == {"dense": chain[0].id}
    assert list(steps(*iterative, "distill.teachers=levels")[-1].inputs) == ["level 1", "level 2"]
    assert list(steps("stage=distill")[-1].inputs) == ["dense"]
    none = steps(*iterative, "distill.weight=0")[-1]
    assert (none.inputs, none.recipe) == ({}, plain[-1].recipe)
    assert none.id == steps(*iterative, "distill.weight=0", "distill.temperature=9", "distill.teachers=dense")[-1].id
    given = tmp_path / "resnet20.pth.tar"
    torch.save({"state_dict": archs.build("resnet20", 10).state_dict()}, given)
    assert list(steps(*iterative, f"resume={given}")[-1].inputs) == ["level 1", "level 2"]
    for overrides, text in (
        (
            ["distill.teachers=levels"],
            "distill.teachers=levels finds no teacher: there is one level only; give levels.",
        ),
        ([f"resume={given}"], "distill.teachers=all finds no teacher: resume= stands in place of the dense network"),
        (["distill.temperature=0"], "distill.temperature must be > 0, got 0"),
        (["distill.weight=90"], "distill.weight must be in [0, 1], got 90"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(text)}"):
            steps("stage=distill", *overrides)
