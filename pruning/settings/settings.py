"""Settings: frozen values, checked when they are made, so that nothing wrong reaches the first epoch.

A field's default is its neutral value. `non_defaults()` leaves neutral values out, so a setting that is added later
does not change the id of any step that exists; what a setting means may only change together with `step.VERSION`.
Where a setting chooses a function (an optimizer, a criterion), the function's keyword-only parameters are settings
beside it; those of functions that are not chosen decide nothing, and `non_defaults()` leaves them out too.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache, lru_cache, partial
from typing import Any, ClassVar, Self, cast, get_args, get_type_hints

from pruning.errors import UserError, check_choice, naming
from pruning.settings.values import check_range, value_of

Axes = Mapping[str, Mapping[str, Callable[..., Any]]]


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
        try:
            kind: Any = cls
            return cast("Self", _read(kind, name, _Node(json.dumps(node), node)))
        except (TypeError, ValueError) as error:  # what is no plain value, or goes round in a circle
            if isinstance(error, UserError):
                raise
            return cls._read(node, name)

    @classmethod
    def check(cls, node: Any, name: str) -> None:
        """Raise a UserError if what the node sets is wrong; what it does not set is left to who needs it."""
        cls.check_keys(node, name)
        if not cls.missing(node):
            cls.read(node, name)

    @classmethod
    def _read(cls, node: Any, name: str) -> Self:
        cls.check_keys(node, name)
        for key in cls.missing(node):
            raise UserError(f"{name}.{key} is not set: give {name}.{key}=...{cls.ADVICE}", f"{name}.{key}")
        fields = {cls.KEYS.get(f.name, f.name): f for f in own_fields(cls)}
        others = cls.offered().keys() - fields.keys()
        given = {f.name: node[key] for key, f in fields.items() if key in node}
        whole: Any = cls
        for key, kind in field_kinds(whole).items():
            if key in given and isinstance(kind, type) and issubclass(kind, Settings):
                given[key] = kind.read(given[key], f"{name}.{key}")
        with naming(name, cls.KEYS):
            return cls(**given, options={key: node[key] for key in others if key in node})

    @classmethod
    def check_keys(cls, node: Any, name: str) -> None:
        """Raise a UserError if the node `name` is no group, or has a key that is no setting."""
        if not isinstance(node, Mapping):
            raise UserError(f"{name} must be a group of settings, got {node!r}", name)
        known = {cls.KEYS.get(f.name, f.name) for f in own_fields(cls)}
        if known.issuperset(node):
            return
        known |= cls.offered().keys()
        for key in node:
            if not known:
                raise UserError(f"{name} has no settings, got {key!r}", name)
            check_choice(f"a setting of {name}", key, known)

    @classmethod
    def missing(cls, node: Mapping[str, Any]) -> list[str]:
        """Return the keys of the settings that have no default, and no value in the node."""
        needed = [f.name for f in own_fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        return [key for name in needed if node.get(key := cls.KEYS.get(name, name)) in (None, "???")]

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

    def with_(self, settings: Mapping[str, Any]) -> Self:
        """Return them with other values of these fields; UserError as where they are made."""
        if all(getattr(self, key) == value for key, value in settings.items()):
            return self
        return dataclasses.replace(self, **settings)

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


@dataclass(frozen=True)
class _Node:
    """A node that is known by its text."""

    text: str
    node: Any = field(compare=False)


@lru_cache(maxsize=16384)  # a sweep reads the same few nodes in each of thousands of cells
def _read(kind: Any, name: str, keyed: _Node) -> Any:
    return kind._read(keyed.node, name)


def own_fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields of a kind of settings, without `options`."""
    return _own_fields(kind)


@cache
def _own_fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(f for f in dataclasses.fields(kind) if f.name != "options")


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
