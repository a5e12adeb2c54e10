"""Types and ranges of single values."""

import math
import operator
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pruning.errors import UserError, check_choice

LARGEST = 2**63 - 1
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
    if hasattr(kind, "read") and not isinstance(value, kind):  # settings within settings
        return kind.read(value, name)
    if type(value) is int and kind in (int, float) and abs(value) > LARGEST:
        raise UserError(f"{name} must be a number that fits into 64 bits, got one of {len(str(value))} digits", name)
    if kind is Path and isinstance(value, (str, Path)):
        return path_of(name, value)
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise UserError(f"{name} must be {WORDS.get(kind, kind.__name__)}, got {value!r}", name)


def path_of(name: str, value: str | Path) -> Path:
    """Return the path with its `~` replaced; UserError if it is empty, or that is no user here."""
    if not str(value):
        raise UserError(f"{name} must be a path, got {value!r}", name)
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name}={value}: {error}", name) from None


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
    percent = limited.get("below") == 1  # not a point in time, such as a milestone
    hint = f"; did you mean {value / 100:g}?" if percent and 1 < value < 100 else ""
    raise UserError(f"{name} must be {allowed}, got {value:g}{hint}", name)
