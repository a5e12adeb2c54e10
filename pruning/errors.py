"""What a person is meant to read, and what ends a run on request; imported by everything, imports nothing heavy."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class UserError(ValueError):
    """What was asked cannot be done. The text is one line: the value, what is allowed, what to do.

    Where the text begins with the name of a parameter, `parameter` is that name: `naming` puts the key of the
    command line in its place.
    """

    def __init__(self, text: str, parameter: str | None = None) -> None:
        super().__init__(text)
        self.parameter = parameter


def printable(text: str) -> str:
    """Return `text` on one line: what is not to be seen, like a line break, as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Interrupted(Exception):
    """Asked to stop; everything needed to continue has been saved."""


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`, else raise a UserError that lists them and guesses the typo."""
    choices = list(choices)
    if value in choices:
        return value
    choices = sorted(choices)
    close = difflib.get_close_matches(str(value), choices, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r}{guess}", name)


@contextmanager
def naming(prefix: str = "", keys: Mapping[str, str] | None = None) -> Iterator[None]:
    """Raise the UserErrors of this block under the command line's names: parameter `lr` becomes `PREFIX.lr`.

    `keys` holds the parameters that have another name there, like {"path": "resume"}.
    """
    try:
        yield
    except UserError as error:
        if error.parameter is None:
            raise
        key = (keys or {}).get(error.parameter, error.parameter)
        full = f"{prefix}.{key}" if prefix else key
        raise UserError(full + str(error).removeprefix(error.parameter), full) from error.__cause__
