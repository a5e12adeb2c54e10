"""A composed config as plain values, on which a sweep sets other plain values in microseconds.

OmegaConf parses each `${train.lr}` again in each job of a sweep, and there are a hundred and sixty of them. Here it is
looked up which keys refer to which, once; what is more than a value in a place that has one is left to OmegaConf.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

Key = tuple[str, ...]
VALUE, FREE, OTHER = "a single value", "nothing", "a group, or something within a value"
REFERENCE = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")
SPECIAL = re.compile(r"\$\{|\\|^\?\?\?$")  # interpolations, their escapes, and what must be set


@dataclass(frozen=True)
class Plain:
    """`whole` has the references as they are written; those to one key, by way of others too, are its followers."""

    whole: Mapping[str, Any]
    references: Mapping[Key, Key]
    resolved: Mapping[str, Any]

    @classmethod
    def of(cls, composed: DictConfig) -> Self | None:
        """Return it; None if there is anything to resolve that is no reference to a single value."""
        whole: Any = OmegaConf.to_container(composed, resolve=False)
        references = {}
        for key, value in leaves(whole):
            if isinstance(value, str) and (match := REFERENCE.fullmatch(value)):
                references[key] = tuple(match[1].split("."))
            elif not simple(value) and value != "???":
                return None
        places = {key for key, _ in leaves(whole)}
        if not {*references.values()} <= places or any(cls._circular(key, references) for key in references):
            return None
        return cls(whole, references, _with(whole, references, {}, references))

    @staticmethod
    def _circular(key: Key, references: Mapping[Key, Key]) -> bool:
        seen = set()
        while key in references and key not in seen:
            seen.add(key)
            key = references[key]
        return key in seen

    def given(self, overrides: Sequence[Override]) -> dict[str, Any] | None:
        """Return the config with these values, which shares nothing; None if one is more than a value for a key."""
        changed: dict[Key, Any] = {}
        for override in overrides:
            key, value = tuple(override.key_or_group.split(".")), override.value()
            if override.package is not None or override.is_delete() or not simple(value):
                return None
            adds, forced = override.is_add(), override.is_force_add()
            if not {VALUE: not adds, FREE: adds or forced}.get(self._place(key), False):
                return None
            changed[key] = value
        return _with(self.resolved, self.references, changed, self._followers({*changed}))

    def _place(self, key: Key) -> str:
        """Return what is there: VALUE; FREE: nothing, in a group that there is; or OTHER."""
        node: Any = self.whole
        for part in key[:-1]:
            node = node.get(part) if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping):
            return OTHER
        if key[-1] not in node:
            return FREE
        return OTHER if isinstance(node[key[-1]], Mapping) else VALUE

    def _followers(self, changed: set[Key]) -> list[Key]:
        """Return the keys that refer to one of these, by way of others too, and are none of them."""
        found = []
        for key in self.references.keys() - changed if changed & {*self.references, *self.references.values()} else ():
            at = key
            while at in self.references and at not in changed:
                at = self.references[at]
            if at in changed:
                found.append(key)
        return found


def simple(value: Any) -> bool:
    """Whether it is a value, or a list of some, in which there is nothing to resolve."""
    if isinstance(value, list):
        return all(not isinstance(part, list) and simple(part) for part in value)
    return value is None or type(value) in (bool, int, float) or (type(value) is str and not SPECIAL.search(value))


def leaves(node: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield the key and value of each thing that is no group."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _with(base: Mapping[str, Any], references: Mapping[Key, Key], changed: Mapping[Key, Any], open_: Any) -> Any:
    """Return a copy of `base` with the changed values, and with what they now refer to in the keys `open_`."""
    whole: Any = _copied(base)
    for key, value in changed.items():
        _group(whole, key)[key[-1]] = _copied(value)
    for key in open_:
        at = key
        while at in references and at not in changed:
            at = references[at]
        _group(whole, key)[key[-1]] = _copied(_group(whole, at)[at[-1]])
    return whole


def _group(whole: Any, key: Key) -> Any:
    """Return the group that holds the key."""
    for part in key[:-1]:
        whole = whole[part]
    return whole


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(part) for name, part in value.items()}
    return [*value] if isinstance(value, list) else value
