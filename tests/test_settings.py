import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from pruning.data import DatasetSettings
from pruning.errors import UserError
from pruning.masks import CRITERIA
from pruning.settings import Axes, Settings, limits, setting, value_of
from pruning.stages import STAGES
from pruning.stages.prune import PruneRecipe
from pruning.training import TrainRecipe

TRAIN: dict[str, Any] = {"epochs": 8, "batch_size": 32, "lr": 0.05}
NAMES = ", ".join(sorted(CRITERIA))
NEEDED: dict[str, dict[str, Any]] = {"train": TRAIN, "finetune": TRAIN, "prune": {"percent": 0.8}}


def recipe(stage: str, **change: Any) -> Settings:
    return STAGES[stage].recipe.read(NEEDED[stage] | change, stage)


def refusal(kind: type[Settings], node: Any, name: str) -> str:
    """Return the one line; what it is about is named as on the command line."""
    with pytest.raises(UserError) as caught:
        kind.read(node, name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(caught.value.parameter))
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("prune.percent", 30, "must be in [0, 1), got 30; did you mean 0.3?"),
        ("prune.percent", 100, "must be in [0, 1), got 100"),
        ("prune.percent", math.nan, "must be in [0, 1), got nan"),
        ("prune.percent", "0.5", "must be a number, got '0.5'"),
        (
            "prune.criterion",
            "magnitud",
            f"must be one of {', '.join(sorted(CRITERIA))}, got 'magnitud'; did you mean magnitude?",
        ),
        ("prune.criterion", ["random"], "must be a word, got ['random']"),
        ("prune.scope", "local", "must be one of erk, global, layer, uniform_plus, got 'local'; did you mean global?"),
        ("prune.layers", "convs", "must be one of conv, conv+linear, linear, got 'convs'; did you mean conv?"),
        ("train.epochs", 8.0, "must be a whole number, got 8.0"),
        ("train.epochs", True, "must be a whole number, got True"),
        ("train.epochs", -1, "must be >= 0, got -1"),
        ("train.batch_size", 0, "must be >= 1, got 0"),
        ("train.lr", 0, "must be > 0, got 0"),
        ("train.momentum", 90, "must be in [0, 1), got 90; did you mean 0.9?"),
        ("train.nesterov", 1, "must be true or false, got 1"),
        ("finetune.nesterov", True, "=true needs a momentum above 0"),
        ("train.weight_decay", -1e-4, "must be >= 0, got -0.0001"),
        ("train.optimizer", "SGD", "must be one of adam, adamw, sgd, got 'SGD'"),
        (
            "train.schedule",
            "step",
            "must be one of constant, cosine, linear, one_cycle, steps, got 'step'; did you mean steps?",
        ),
        ("train.precision", "fp16", "must be one of auto, bf16, fp32, tf32, got 'fp16'; did you mean bf16?"),
        ("train.warmup", 15, "must be in [0, 1), got 15; did you mean 0.15?"),
        ("train.start", -1, "must be >= 0, got -1"),
        ("train.end", -1, "must be >= 0, got -1"),
        ("train.decay", 0, "must be > 0, got 0"),
        ("train.label_smoothing", 1, "must be in [0, 1), got 1"),
        ("train.milestones", "0.5", "must be a list of numbers like [0.5,0.75], got '0.5'"),
        ("train.milestones", [0.5, 75], "must be in [0, 1], got 75"),
        ("train.betas", [0.9, 1.0], "must be in [0, 1), got 1"),
        ("train.momentum_cycle", [0.9], "must be two numbers like [0.95,0.85], got [0.9]"),
        ("train.momentum_cycle", [0.9, 85], "must be in [0, 1), got 85; did you mean 0.85?"),
        ("train.betas", [0.9], "must be two numbers like [0.9,0.999], got [0.9]"),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(key: str, value: Any, text: str) -> None:
    stage, _, name = key.partition(".")
    found = refusal(STAGES[stage].recipe, NEEDED[stage] | {name: value}, stage)
    assert found == f"{key}{'' if text[0] == '=' else ' '}{text}"


def test_an_unknown_key_is_refused_and_a_typo_guessed() -> None:
    typos: list[tuple[str, Any, str]] = [("train", "epoch", "epochs"), ("finetune", "weightdecay", "weight_decay")]
    typos += [("prune", "precent", "percent"), ("prune", 7, "")]
    typos += [("prune", "sparsity", "")]  # the field's name, not the key
    for stage, key, guess in typos:
        kind = STAGES[stage].recipe
        own = {kind.KEYS.get(name, name) for name in recipe(stage).values()}
        keys = ", ".join(sorted(own | ({"batches", "temperature"} if stage == "prune" else set())))  # of criteria
        text = f"a setting of {stage} must be one of {keys}, got {key!r}" + f"; did you mean {guess}?" * bool(guess)
        assert refusal(kind, NEEDED[stage] | {key: 1}, stage) == text


def test_a_missing_setting_is_named() -> None:
    for stage, key in [("train", "epochs"), ("finetune", "lr"), ("prune", "percent")]:
        without = {k: v for k, v in NEEDED[stage].items() if k != key}
        for node in (without, without | {key: None}, without | {key: "???"}):
            advice = ", or prune.mask_from=ID_OR_PATH" if stage == "prune" else " or choose a recipe"
            text = f"{stage}.{key} is not set: give {stage}.{key}=...{advice}"
            assert refusal(STAGES[stage].recipe, node, stage) == text


def test_a_node_must_be_a_group_of_settings_if_there_are_any() -> None:
    for node in (None, 3, "quick", [1]):
        assert refusal(TrainRecipe, node, "train") == f"train must be a group of settings, got {node!r}"
    assert (refusal(Settings, {"x": 1}, "rest"), Settings().non_defaults()) == ("rest has no settings, got 'x'", {})


def test_the_library_names_its_own_parameters() -> None:
    cases: list[tuple[type[Settings], dict[str, Any], str, str | None]] = [
        (PruneRecipe, {"sparsity": 30}, "sparsity must be in [0, 1), got 30; did you mean 0.3?", "sparsity"),
        (
            PruneRecipe,
            {"sparsity": 0, "scope": "x"},
            "scope must be one of erk, global, layer, uniform_plus, got 'x'",
            "scope",
        ),
        (TrainRecipe, TRAIN | {"options": {"x": 1}}, "a setting of TrainRecipe must be one of ", None),
    ]
    for kind, fields, text, parameter in cases:
        with pytest.raises(UserError, match=f"^{re.escape(text)}") as caught:
            kind(**fields)
        assert parameter in (None, caught.value.parameter)


def test_neutral_values_are_pinned_and_left_out() -> None:
    """Another neutral value would change what an id that exists means."""
    neutral: dict[str, Any] = dict.fromkeys(("momentum", "weight_decay", "warmup", "start", "end"), 0.0)
    neutral |= {"precision": "auto", "optimizer": "sgd", "schedule": "constant", "nesterov": False}
    neutral |= {"betas": (0.9, 0.999), "milestones": (0.5, 0.75), "decay": 0.1, "label_smoothing": 0.0}
    neutral |= {"momentum_cycle": None}
    assert recipe("train").values() == TRAIN | neutral
    assert recipe("train").non_defaults() == recipe("train", **neutral).non_defaults() == TRAIN
    neutral = {"criterion": "magnitude", "scope": "global", "layers": "conv", "control": "none"}
    neutral |= {"include": (), "exclude": (), "mask_from": None}
    assert recipe("prune").values() == {"sparsity": 0.8} | neutral
    assert recipe("prune").non_defaults() == recipe("prune", **neutral).non_defaults() == {"percent": 0.8}
    assert DatasetSettings.read({"name": "digits"}, "dataset").non_defaults() == {"name": "digits"}


@pytest.mark.parametrize(
    ("stage", "chosen", "idle"),
    [
        ("train", {"momentum": 0.9}, {"betas": [0.5, 0.6]}),
        ("train", {"optimizer": "adam", "betas": [0.5, 0.6]}, {"momentum": 0.9, "nesterov": True}),
        ("train", {"optimizer": "adamw"}, {"nesterov": True}),
        ("train", {}, {"end": 0.1, "milestones": [0.1], "decay": 0.5}),
        ("train", {"schedule": "steps", "milestones": [0.1], "decay": 0.5}, {"end": 0.1}),
        ("train", {"schedule": "linear", "end": 0.1}, {"milestones": [0.1], "decay": 0.5}),
        ("finetune", {"schedule": "cosine", "end": 0.1}, {"milestones": [0.1], "decay": 0.5, "start": 0.5}),
        ("train", {"warmup": 0.1, "start": 0.5, "weight_decay": 0.1, "label_smoothing": 0.1}, {"end": 0.1}),
        ("prune", {"percent": 0}, {"criterion": "random", "scope": "layer"}),
    ],
)
def test_settings_that_decide_nothing_are_left_out(stage: str, chosen: dict[str, Any], idle: dict[str, Any]) -> None:
    lean, full = recipe(stage, **chosen), recipe(stage, **chosen, **idle)
    assert full.non_defaults() == lean.non_defaults() == NEEDED[stage] | chosen
    assert full.idle() == lean.idle() >= idle.keys()
    assert full != lean
    for key in idle:
        assert refusal(STAGES[stage].recipe, NEEDED[stage] | chosen | {key: object()}, stage)  # but still checked
    assert DatasetSettings(name="digits", root="x").non_defaults() == {"name": "digits"}
    folder = DatasetSettings(name="image_folder", root="x")
    assert folder.non_defaults() == {"name": "image_folder", "root": "x"}
    assert folder.arguments("name") == {"root": "x", "size": None}


def test_what_is_written_can_be_read_again_and_numbers_are_alike() -> None:
    changes = {"optimizer": "adamw", "betas": [0.8, 0.95], "schedule": "steps", "milestones": [0.3], "warmup": 0.1}
    found = recipe("finetune", **changes)
    assert found.non_defaults() == TRAIN | changes
    assert TrainRecipe.read(found.non_defaults(), "finetune") == found
    pruned = PruneRecipe(sparsity=0.5, scope="layer")
    assert PruneRecipe.read(pruned.non_defaults(), "prune") == pruned
    whole = {"lr": 1, "weight_decay": 0, "schedule": "steps", "milestones": [0, 1]}
    floats = {"lr": 1.0, "weight_decay": 0.0, "schedule": "steps", "milestones": [0.0, 1.0]}
    assert repr(recipe("train", **whole).non_defaults()) == repr(recipe("train", **floats).non_defaults())


def test_settings_are_frozen_values() -> None:
    found = TrainRecipe(**TRAIN)
    assert len({found, TrainRecipe(**TRAIN)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.lr = 1.0  # type: ignore[misc]
    with pytest.raises(UserError, match=r"^epochs must be >= 0"):
        dataclasses.replace(found, epochs=-1)


def still(_x: int, *, size: int = 3) -> None: ...  # positional parameters are no settings


def waves(*, size: int = 3, height: Annotated[float, limits(least=0, below=1)] = 0.5, words: str = "a") -> None: ...


def storm(*, height: float, words: str = "c") -> None: ...  # no limits, must be given; another default


@dataclass(frozen=True, kw_only=True)
class Sea(Settings):
    KEYS: ClassVar[Mapping[str, str]] = {"surface": "form"}

    surface: str = "still"
    size: int = setting(3, least=1)
    color: str | None = setting(None, among=("blue", "grey"))

    @classmethod
    def axes(cls) -> Axes:
        return {"surface": {"still": still, "waves": waves, "storm": storm}}


def test_the_chosen_function_brings_its_settings() -> None:
    rough = Sea.read({"form": "waves", "height": 0, "size": 4, "words": "b", "color": "blue"}, "sea")
    assert rough.options == {"height": 0.0, "words": "b"}
    assert rough.arguments("surface") == {"size": 4, "height": 0.0, "words": "b"}
    assert rough.non_defaults() == {"form": "waves", "size": 4, "color": "blue", "height": 0.0, "words": "b"}
    assert Sea.read(rough.non_defaults(), "sea") == rough
    assert Sea.read({"form": "waves", "height": 0.5}, "sea").non_defaults() == {"form": "waves"}
    calm = Sea.read({"height": 0.9, "words": "b", "color": None}, "sea")
    assert calm.arguments("surface") == {"size": 3}
    assert (calm.idle(), calm.non_defaults()) == ({"height", "words"}, {})


def test_of_functions_with_a_setting_of_one_name_the_chosen_one_counts() -> None:
    for form, default, other in (("waves", "a", "c"), ("storm", "c", "a")):
        node = {"form": form, "height": 0.1}
        assert Sea.read(node | {"words": default}, "sea").non_defaults() == node
        found = Sea.read(node | {"words": other}, "sea").non_defaults()
        assert Sea.read(found, "sea").arguments("surface")["words"] == other
    assert Sea.read({"form": "storm", "height": 7}, "sea").arguments("surface") == {"height": 7.0, "words": "c"}


def test_settings_of_functions_are_checked_like_fields() -> None:
    for node, text in (
        ({"form": "waves", "height": 1}, "sea.height must be in [0, 1), got 1"),
        ({"form": "storm"}, "sea.height must be given for storm"),
        ({"form": "waves", "words": 3}, "sea.words must be a word, got 3"),
        ({"form": "wave"}, "sea.form must be one of still, storm, waves, got 'wave'; did you mean waves?"),
        ({"color": "red"}, "sea.color must be one of blue, grey, got 'red'"),
        ({"hight": 1}, "a setting of sea must be one of color, form, height, size, words, got 'hight'; did you mean"),
    ):
        assert refusal(Sea, node, "sea").startswith(text)


def test_values_become_their_kind_without_guessing() -> None:
    cases: list[tuple[Any, Any, Any]] = [(3, int, 3), (3, float, 3.0), (True, bool, True), ("a", str, "a")]
    cases += [("~/x", Path, Path("~/x").expanduser()), (None, int | None, None), (4, int | None, 4)]
    cases += [([1, 0.5], tuple[float, ...], (1.0, 0.5)), (["a"], tuple[str, ...] | None, ("a",))]
    cases += [(1, Annotated[float, limits(least=0)], 1.0), ({"a": 1}, Mapping[str, Any], {"a": 1})]
    for value, kind, expected in [*cases, ({"size": 2}, Sea, Sea(size=2))]:
        found = value_of("name", value, kind)
        assert (found, type(found)) == (expected, type(expected))
        with pytest.raises(UserError, match=r"^name must be "):
            value_of("name", object(), kind)
