"""Settings: frozen values, checked when they are made, so that nothing wrong reaches the first epoch.

A field's default is its neutral value. `non_defaults()` leaves neutral values out, so a setting that is added later
does not change the id of any step that exists; what a setting means may only change together with `step.VERSION`.
Where a setting chooses a function (an optimizer, a criterion), the function's keyword-only parameters are settings
beside it; those of functions that are not chosen decide nothing, and `non_defaults()` leaves them out too.
"""

import dataclasses
import inspect
import math
import operator
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from pruning.errors import UserError, check_choice, naming

Axes = Mapping[str, Mapping[str, Callable[..., Any]]]
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Path: "a path",
    type(None): "null",
}


def limits(**limits: Any) -> dict[str, Any]:
    """Limits of a number, `least <= x <= most` or `above < x < below`, or the names that a word is `among`."""
    return limits


def setting(default: Any = MISSING, **limited: Any) -> Any:
    """A field with `limits`."""
    return field(default=default, metadata=limited)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Common to all settings; `options` holds what the chosen functions take beyond the fields."""

    KEYS: ClassVar[Mapping[str, str]] = {}  # fields that have another name in the config
    ADVICE: ClassVar[str] = ""  # what else can be done where a setting is missing

    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def axes(cls) -> Axes:
        """Return, for each field that chooses a function, what it chooses from."""
        return {}

    @classmethod
    def offered(cls) -> dict[str, inspect.Parameter]:
        """Return the keyword-only parameters of all functions, chosen or not."""
        functions = (function for offer in cls.axes().values() for function in offer.values())
        return {key: parameter for function in functions for key, parameter in keywords(function)}

    @classmethod
    def read(cls, node: Any, name: str) -> Self:
        """Make them from a plain mapping, the node `name` of the config; UserErrors have the names of its keys.

        Refused are an unknown key, a wrong type or range, and a missing setting.
        """
        if not isinstance(node, Mapping):
            raise UserError(f"{name} must be a group of settings, got {node!r}", name)
        fields = {cls.KEYS.get(f.name, f.name): f for f in own_fields(cls)}
        others = cls.offered().keys() - fields.keys()
        for key in node:
            if not fields and not others:
                raise UserError(f"{name} has no settings, got {key!r}", name)
            check_choice(f"a setting of {name}", key, fields.keys() | others)
        for key, f in fields.items():
            if f.default is MISSING and f.default_factory is MISSING and node.get(key) in (None, "???"):
                raise UserError(f"{name}.{key} is not set: give {name}.{key}=...{cls.ADVICE}", f"{name}.{key}")
        given = {f.name: node[key] for key, f in fields.items() if key in node}
        whole: Any = cls
        for key, kind in field_kinds(whole).items():
            if key in given and isinstance(kind, type) and issubclass(kind, Settings):
                given[key] = kind.read(given[key], f"{name}.{key}")
        with naming(name, cls.KEYS):
            return cls(**given, options={key: node[key] for key in others if key in node})

    def __post_init__(self) -> None:
        """Check types, choices and ranges; UserErrors name the field."""
        kind: Any = type(self)
        for f in own_fields(kind):
            value = value_of(f.name, getattr(self, f.name), field_kinds(kind)[f.name])
            check_range(f.name, value, f.metadata)
            object.__setattr__(self, f.name, value)
        for axis, functions in self.axes().items():
            check_choice(axis, getattr(self, axis), functions)
        options = {}
        for key, value in self.options.items():
            kind = self.parameters[check_choice(f"a setting of {type(self).__name__}", key, self.parameters)].annotation
            options[key] = value_of(key, value, kind)
            for limited in get_args(kind)[1:]:  # Annotated[float, limits(...)]
                check_range(key, options[key], limited)
        object.__setattr__(self, "options", options)
        for axis in self.axes():
            for key, value in self.arguments(axis).items():
                if value is inspect.Parameter.empty:
                    raise UserError(f"{key} must be given for {getattr(self, axis)}", key)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters of all functions; of equal names, those of a chosen function."""
        chosen = [functions[getattr(self, axis)] for axis, functions in self.axes().items()]
        return self.offered() | {key: parameter for function in chosen for key, parameter in keywords(function)}

    def values(self) -> dict[str, Any]:
        """Return all settings by field, with the options beside them."""
        return {f.name: getattr(self, f.name) for f in own_fields(type(self))} | dict(self.options)

    def arguments(self, axis: str) -> dict[str, Any]:
        """Return the keyword arguments of the function that the field `axis` chooses."""
        values = self.values()
        function = self.axes()[axis][getattr(self, axis)]
        return {key: values.get(key, parameter.default) for key, parameter in keywords(function)}

    def idle(self) -> set[str]:
        """Return the settings that decide nothing, given the others."""
        return self.offered().keys() - {key for axis in self.axes() for key in self.arguments(axis)}

    def non_defaults(self) -> dict[str, Any]:
        """Return the settings that decide something and differ from neutral, as plain values under their keys."""
        defaults = {key: parameter.default for key, parameter in self.parameters.items()}
        defaults |= {f.name: f.default for f in own_fields(type(self))}
        idle = self.idle()
        found = {key: value for key, value in self.values().items() if key not in idle and value != defaults[key]}
        return {self.KEYS.get(k, k): list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def own_fields(kind: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields of a kind of settings, without `options`."""
    return [f for f in dataclasses.fields(kind) if f.name != "options"]


@cache
def field_kinds(kind: Any) -> dict[str, Any]:
    """Return the type of each field, resolved."""
    return get_type_hints(kind, include_extras=True)


@cache  # a sweep asks for the same few functions thousands of times
def keywords(function: Callable[..., Any]) -> tuple[tuple[str, inspect.Parameter], ...]:
    """Return the keyword-only parameters of `function` with their types resolved: these are its settings."""
    plain = function.func if isinstance(function, partial) else function
    hints = get_type_hints(plain, include_extras=True)
    return tuple(
        (name, parameter.replace(annotation=hints.get(name, type(parameter.default))))
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    )


def value_of(name: str, value: Any, kind: Any) -> Any:
    """Return `value` as `kind` without guessing, else raise a UserError.

    A kind is int, float, bool, str, Path, Mapping, a kind of settings, a tuple of one of them, or one of them or None.
    """
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (types.UnionType, Union):
        kinds = get_args(kind)
        return None if value is None else value_of(name, value, next(k for k in kinds if k is not type(None)))
    if get_origin(kind) is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(value_of(name, part, get_args(kind)[0]) for part in value)
        example = "numbers like [0.5,0.75]" if get_args(kind)[0] is float else "words like [a,b]"
        raise UserError(f"{name} must be a list of {example}, got {value!r}", name)
    if get_origin(kind) is Mapping:
        if isinstance(value, Mapping):
            return dict(value)
        raise UserError(f"{name} must be a group of settings like {{a: 1}}, got {value!r}", name)
    if isinstance(kind, type) and issubclass(kind, Settings) and not isinstance(value, kind):
        return kind.read(value, name)
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise UserError(f"{name} must be {WORDS.get(kind, kind.__name__)}, got {value!r}", name)


def check_range(name: str, value: Any, limited: Mapping[str, Any]) -> None:
    """Raise a UserError that names the value, the limits and the likely mistake; a tuple is checked part by part."""
    if isinstance(value, tuple):
        for part in value:
            check_range(name, part, limited)
        return
    if value is not None and "among" in limited:
        check_choice(name, value, limited["among"])
    if type(value) not in (int, float):
        return
    tests = {"least": operator.ge, "above": operator.gt, "most": operator.le, "below": operator.lt}
    if math.isfinite(value) and all(tests[key](value, limit) for key, limit in limited.items()):
        return
    low, high = limited.get("least", limited.get("above")), limited.get("most", limited.get("below"))
    if low is None and high is None:
        allowed = "finite"
    elif high is None:
        allowed = f">= {low}" if "least" in limited else f"> {low}"
    else:
        allowed = f"in {'[' if 'least' in limited else '('}{low}, {high}{']' if 'most' in limited else ')'}"
    hint = f"; did you mean {value / 100:g}?" if high == 1 and 1 < value < 100 else ""
    raise UserError(f"{name} must be {allowed}, got {value:g}{hint}", name)
