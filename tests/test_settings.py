import dataclasses
import math
from typing import Any

import pytest
from pruning.recipes import RECIPES, FinetuneRecipe, PruneRecipe, TrainRecipe, value_of

from pruning.errors import UserError, one_of

TRAIN: dict[str, Any] = {"epochs": 8, "batch_size": 32, "lr": 0.05}
PRUNE: dict[str, Any] = {"percent": 0.8}


def refusal(stage: str, node: Any) -> str:
    with pytest.raises(UserError) as caught:
        RECIPES[stage].read(node)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "percent, text",
    [
        (30, "prune.percent must be in [0, 1), got 30; did you mean 0.3?"),
        (99.5, "prune.percent must be in [0, 1), got 99.5; did you mean 0.995?"),
        (1.5, "prune.percent must be in [0, 1), got 1.5; did you mean 0.015?"),
        (-0.1, "prune.percent must be in [0, 1), got -0.1"),
        (1.0, "prune.percent must be in [0, 1), got 1"),
        (1, "prune.percent must be in [0, 1), got 1"),
        (100, "prune.percent must be in [0, 1), got 100"),
        (math.nan, "prune.percent must be in [0, 1), got nan"),
        (math.inf, "prune.percent must be in [0, 1), got inf"),
        (-math.inf, "prune.percent must be in [0, 1), got -inf"),
        ("abc", "prune.percent must be a number, got 'abc'"),
        ("0.5", "prune.percent must be a number, got '0.5'"),
        (True, "prune.percent must be a number, got True"),
        ([0.5], "prune.percent must be a number, got [0.5]"),
        (None, "prune.percent is not set: give prune.percent=... or choose a recipe"),
    ],
)
def test_percents_that_are_refused(percent, text):
    assert refusal("prune", {"percent": percent}) == text


@pytest.mark.parametrize("percent", [0, 0.0, 0.3, 0.999, 1 - 1e-9])
def test_percents_that_are_taken(percent):
    recipe = PruneRecipe.read({"percent": percent})
    assert recipe.percent == percent and type(recipe.percent) is float


@pytest.mark.parametrize(
    "stage, change, text",
    [
        ("train", {"epochs": 1.5}, "train.epochs must be a whole number, got 1.5"),
        ("train", {"epochs": 8.0}, "train.epochs must be a whole number, got 8.0"),
        ("train", {"epochs": True}, "train.epochs must be a whole number, got True"),
        ("train", {"epochs": "8"}, "train.epochs must be a whole number, got '8'"),
        ("train", {"epochs": -1}, "train.epochs must be >= 0, got -1"),
        ("train", {"batch_size": 0}, "train.batch_size must be >= 1, got 0"),
        ("train", {"lr": 0}, "train.lr must be > 0, got 0"),
        ("train", {"lr": -0.1}, "train.lr must be > 0, got -0.1"),
        ("train", {"lr": math.nan}, "train.lr must be > 0, got nan"),
        ("train", {"lr": math.inf}, "train.lr must be > 0, got inf"),
        ("train", {"lr": False}, "train.lr must be a number, got False"),
        ("train", {"lr": "1e-3x"}, "train.lr must be a number, got '1e-3x'"),
        ("train", {"momentum": 1}, "train.momentum must be in [0, 1), got 1"),
        ("train", {"momentum": 90}, "train.momentum must be in [0, 1), got 90; did you mean 0.9?"),
        ("train", {"momentum": None}, "train.momentum must be a number, got None"),
        ("train", {"nesterov": 1}, "train.nesterov must be true or false, got 1"),
        ("train", {"nesterov": "yes"}, "train.nesterov must be true or false, got 'yes'"),
        ("train", {"nesterov": True}, "train.nesterov=true needs train.optimizer=sgd and a momentum above 0"),
        (
            "train",
            {"nesterov": True, "momentum": 0.9, "optimizer": "adam"},
            "train.nesterov=true needs train.optimizer=sgd and a momentum above 0",
        ),
        ("train", {"weight_decay": -1e-4}, "train.weight_decay must be >= 0, got -0.0001"),
        ("train", {"optimizer": 3}, "train.optimizer must be a word, got 3"),
        ("train", {"optimizer": "SGD"}, "train.optimizer must be one of adam, adamw, sgd, got 'SGD'"),
        (
            "train",
            {"optimizer": "adamww"},
            "train.optimizer must be one of adam, adamw, sgd, got 'adamww'; did you mean adamw?",
        ),
        (
            "train",
            {"schedule": "cosin"},
            "train.schedule must be one of constant, cosine, linear, steps, got 'cosin'; did you mean cosine?",
        ),
        ("train", {"precision": "fp16"}, "train.precision must be one of auto, bf16, fp32, got 'fp16'; did you mean "),
        ("train", {"warmup": 1.0}, "train.warmup must be in [0, 1), got 1"),
        ("train", {"warmup": 15}, "train.warmup must be in [0, 1), got 15; did you mean 0.15?"),
        ("train", {"start": -1}, "train.start must be >= 0, got -1"),
        ("train", {"end": -1}, "train.end must be >= 0, got -1"),
        ("train", {"decay": 0}, "train.decay must be > 0, got 0"),
        ("train", {"label_smoothing": 1}, "train.label_smoothing must be in [0, 1), got 1"),
        ("train", {"milestones": 0.5}, "train.milestones must be a list of numbers like [0.5,0.75], got 0.5"),
        ("train", {"milestones": "0.5"}, "train.milestones must be a list of numbers like [0.5,0.75], got '0.5'"),
        ("train", {"milestones": [0.5, "x"]}, "train.milestones must be a number, got 'x'"),
        ("train", {"milestones": [0.5, True]}, "train.milestones must be a number, got True"),
        ("train", {"milestones": [0.5, 75]}, "train.milestones must be in [0, 1], got 75; did you mean 0.75?"),
        ("train", {"milestones": [150, 225]}, "train.milestones must be in [0, 1], got 150"),
        ("train", {"betas": [0.9, 1.0]}, "train.betas must be in [0, 1), got 1"),
        ("train", {"betas": [0.9]}, "train.betas must be two numbers like [0.9,0.999], got [0.9]"),
        ("train", {"betas": [0.1, 0.2, 0.3]}, "train.betas must be two numbers like [0.9,0.999], got [0.1, 0.2, 0.3]"),
        ("finetune", {"epochs": -1}, "finetune.epochs must be >= 0, got -1"),
        ("finetune", {"nesterov": True}, "finetune.nesterov=true needs finetune.optimizer=sgd and a momentum above 0"),
        (
            "prune",
            {"criterion": "magnitud"},
            "prune.criterion must be one of magnitude, random, got 'magnitud'; did you mean magnitude?",
        ),
        ("prune", {"scope": "local"}, "prune.scope must be one of global, layer, got 'local'; did you mean global?"),
        ("prune", {"layers": "convs"}, "prune.layers must be one of conv, conv+linear, linear, got 'convs'; did you "),
    ],
)
def test_settings_that_are_refused(stage, change, text):
    found = refusal(stage, (PRUNE if stage == "prune" else TRAIN) | change)
    assert found == text or (text[-1] == " " and found.startswith(text))


@pytest.mark.parametrize(
    "stage, key, guess",
    [("train", "epoch", "epochs"), ("finetune", "weightdecay", "weight_decay"), ("prune", "precent", "percent")],
)
def test_a_misspelt_key_is_guessed(stage, key, guess):
    text = refusal(stage, {key: 1})
    fields = sorted(field.name for field in dataclasses.fields(RECIPES[stage]))
    assert text == f"a setting of {stage} must be one of {', '.join(fields)}, got {key!r}; did you mean {guess}?"


def test_a_strange_key_is_refused_without_a_guess():
    assert refusal("prune", {"percent": 0.5, "zzz": 1}).endswith("got 'zzz'")
    assert refusal("prune", {"percent": 0.5, 7: 1}).endswith("got 7")


@pytest.mark.parametrize("key", TRAIN)
@pytest.mark.parametrize("stage", ["train", "finetune"])
def test_a_missing_setting_is_named(stage, key):
    text = f"{stage}.{key} is not set: give {stage}.{key}=... or choose a recipe"
    assert refusal(stage, {k: v for k, v in TRAIN.items() if k != key}) == text
    assert refusal(stage, TRAIN | {key: None}) == text


@pytest.mark.parametrize("node", [None, 3, "quick", [1]])
@pytest.mark.parametrize("stage", RECIPES)
def test_a_node_that_is_no_group_is_refused(stage, node):
    assert refusal(stage, node) == f"{stage} must be a group of settings, got {node!r}"


def test_neutral_values_are_not_told():
    assert TrainRecipe.read(TRAIN).told() == TRAIN
    assert PruneRecipe.read(PRUNE).told() == PRUNE
    for stage, node in [("train", TRAIN), ("finetune", TRAIN), ("prune", PRUNE)]:
        fields = dataclasses.fields(RECIPES[stage])
        neutral = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
        told = {k: list(v) if isinstance(v, tuple) else v for k, v in neutral.items()}
        assert RECIPES[stage].read(node | told).told() == node


def test_neutral_values_are_pinned():
    """Another neutral value would change what an id that exists means."""
    neutral = dataclasses.asdict(TrainRecipe(epochs=1, batch_size=1, lr=1.0))
    assert neutral == {
        "epochs": 1,
        "batch_size": 1,
        "lr": 1.0,
        "precision": "auto",
        "optimizer": "sgd",
        "momentum": 0.0,
        "nesterov": False,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
        "start": 0.0,
        "end": 0.0,
        "milestones": (0.5, 0.75),
        "decay": 0.1,
        "label_smoothing": 0.0,
    }
    pruning = dataclasses.asdict(PruneRecipe(percent=0.5))
    assert pruning == {"percent": 0.5, "criterion": "magnitude", "scope": "global", "layers": "conv"}


def test_a_whole_number_and_its_float_are_told_alike():
    """Or `weight_decay=0` and `lr=1` would have other ids than `weight_decay=0.0` and `lr=1.0`."""
    a = TrainRecipe.read(TRAIN | {"lr": 1, "weight_decay": 0, "milestones": [0, 1]}).told()
    b = TrainRecipe.read(TRAIN | {"lr": 1.0, "weight_decay": 0.0, "milestones": [0.0, 1.0]}).told()
    assert repr(a) == repr(b)


def test_what_is_told_can_be_read_again():
    changes = {"optimizer": "adamw", "betas": [0.8, 0.95], "schedule": "steps", "milestones": [0.3], "warmup": 0.1}
    recipe = FinetuneRecipe.read(TRAIN | changes)
    assert recipe.told() == TRAIN | changes
    assert FinetuneRecipe.read(recipe.told()) == recipe


def test_recipes_are_frozen_values():
    recipe = TrainRecipe.read(TRAIN)
    assert recipe == TrainRecipe(**TRAIN) and hash(recipe) == hash(TrainRecipe(**TRAIN))
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1.0  # type: ignore[misc]
    with pytest.raises(UserError, match=r"^train.epochs must be >= 0"):
        dataclasses.replace(recipe, epochs=-1)


def test_recipes_are_found_by_their_node():
    assert {node: recipe.NODE for node, recipe in RECIPES.items()} == {n: n for n in ("train", "prune", "finetune")}


@pytest.mark.parametrize(
    "value, kind, expected", [(3, int, 3), (3, float, 3.0), (0.5, float, 0.5), (True, bool, True), ("a", str, "a")]
)
def test_value_of_gives_the_kind(value, kind, expected):
    found = value_of("name", value, kind)
    assert found == expected and type(found) is kind


def test_one_of_takes_what_is_allowed():
    assert one_of("x", "a", {"b": 1, "a": 2}) == "a"
    with pytest.raises(UserError, match=r"^x must be one of a, b, got None$"):
        one_of("x", None, ["b", "a"])
