"""What a step can be told: frozen recipes, checked when they are made, so that nothing wrong reaches the first epoch.

A field's default is its neutral value. `told()` leaves neutral values out, so a setting that is added later does
not change the id of any step that exists; what a setting means may only change together with `plan.VERSION`.
"""

import dataclasses
import math
import operator
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, ClassVar, Self, get_args, get_type_hints

from pruning.criteria import CRITERIA
from pruning.errors import UserError, one_of
from pruning.masks import KINDS, SCOPES
from pruning.schedules import SHAPES

OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("auto", "bf16", "fp32")


def setting(default: Any = MISSING, **limits: Any) -> Any:
    """A field with limits: `least <= x <= most`, `above < x < below`, or `among` the names given."""
    return dataclasses.field(default=default, metadata=limits)


@dataclass(frozen=True)
class Recipe:
    """Common to all recipes; `NODE` is the node of the config that it is read from."""

    NODE: ClassVar[str]

    @classmethod
    def read(cls, node: Any) -> Self:
        """Make a recipe from a plain mapping; UserError for a wrong key, type or range, or a missing setting."""
        if not isinstance(node, Mapping):
            raise UserError(f"{cls.NODE} must be a group of settings, got {node!r}")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in node:
            one_of(f"a setting of {cls.NODE}", key, fields)
        missing = [name for name, f in fields.items() if f.default is MISSING and node.get(name) is None]
        if missing:
            raise UserError(f"{cls.NODE}.{missing[0]} is not set: give {cls.NODE}.{missing[0]}=... or choose a recipe")
        hints = get_type_hints(cls)
        return cls(**{key: value_of(f"{cls.NODE}.{key}", value, hints[key]) for key, value in node.items()})

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                check_range(f"{self.NODE}.{field.name}", part, field.metadata)

    def told(self) -> dict[str, Any]:
        """Return the settings that differ from neutral, as plain values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        neutral = {f.name: f.default for f in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v != neutral[k]}


def value_of(name: str, value: Any, kind: Any) -> Any:
    """Return `value` as `kind` (int, float, bool, str, tuple of floats) without guessing: UserError otherwise."""
    if isinstance(kind, types.GenericAlias):
        if isinstance(value, (list, tuple)):
            return tuple(value_of(name, part, get_args(kind)[0]) for part in value)
        raise UserError(f"{name} must be a list of numbers like [0.5,0.75], got {value!r}")
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits:
        called = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[kind]
        raise UserError(f"{name} must be {called}, got {value!r}")
    return kind(value)


def check_range(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Raise a UserError that names the value, the limits and the likely mistake."""
    if "among" in limits:
        one_of(name, value, limits["among"])
    if type(value) not in (int, float):
        return
    tests = {"least": operator.ge, "above": operator.gt, "most": operator.le, "below": operator.lt}
    if math.isfinite(value) and all(tests[key](value, limit) for key, limit in limits.items()):
        return
    low, high = limits.get("least", limits.get("above")), limits.get("most", limits.get("below"))
    if high is None:
        allowed = f">= {low}" if "least" in limits else f"> {low}"
    else:
        allowed = f"in {'[' if 'least' in limits else '('}{low}, {high}{']' if 'most' in limits else ')'}"
    hint = f"; did you mean {value / 100:g}?" if high == 1 and 1 < value < 100 else ""
    raise UserError(f"{name} must be {allowed}, got {value:g}{hint}")


@dataclass(frozen=True)
class TrainRecipe(Recipe):
    """How long and how to train; rates, fractions and shapes as `schedules.learning_rate` reads them."""

    NODE = "train"

    epochs: int = setting(least=0)
    batch_size: int = setting(least=1)
    lr: float = setting(above=0)  # the peak
    precision: str = setting("auto", among=PRECISIONS)
    optimizer: str = setting("sgd", among=OPTIMIZERS)
    momentum: float = setting(0.0, least=0, below=1)
    nesterov: bool = False
    betas: tuple[float, ...] = setting((0.9, 0.999), least=0, below=1)  # adam and adamw
    weight_decay: float = setting(0.0, least=0)
    schedule: str = setting("constant", among=SHAPES)
    warmup: float = setting(0.0, least=0, below=1)
    start: float = setting(0.0, least=0)
    end: float = setting(0.0, least=0)
    milestones: tuple[float, ...] = setting((0.5, 0.75), least=0, most=1)
    decay: float = setting(0.1, above=0)
    label_smoothing: float = setting(0.0, least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise UserError(f"{self.NODE}.nesterov=true needs {self.NODE}.optimizer=sgd and a momentum above 0")
        if len(self.betas) != 2:
            raise UserError(f"{self.NODE}.betas must be two numbers like [0.9,0.999], got {list(self.betas)}")


@dataclass(frozen=True)
class FinetuneRecipe(TrainRecipe):
    """As training, from the pruned weights and with the mask kept."""

    NODE = "finetune"


@dataclass(frozen=True)
class PruneRecipe(Recipe):
    """What to remove; `percent` is the sparsity, cumulative."""

    NODE = "prune"

    percent: float = setting(least=0, below=1)
    criterion: str = setting("magnitude", among=tuple(CRITERIA))
    scope: str = setting("global", among=SCOPES)
    layers: str = setting("conv", among=tuple(KINDS))


RECIPES: dict[str, type[Recipe]] = {r.NODE: r for r in (TrainRecipe, PruneRecipe, FinetuneRecipe)}
