"""The one error that a person is meant to read."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """What was asked cannot be done. The text is one line: the value, what is allowed, what to do."""


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`, else raise a UserError that lists them and guesses the typo."""
    allowed = sorted(allowed)
    if value in allowed:
        return value
    close = difflib.get_close_matches(str(value), allowed, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{guess}")
