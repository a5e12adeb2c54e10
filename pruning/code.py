"""Which code from outside this package decides what a step makes: part of its id."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "pruning"
KNOWN = ("builtins", "torch")  # whose versions are recorded beside a run, and change no id


def foreign_code(functions: Iterable[Callable[..., Any]], modules: Iterable[str] = ()) -> dict[str, str]:
    """Return, by module, which code the functions from outside this package are, and which the `modules` are.

    That is the version of an installed distribution, else a hash of the module's source; of a class also that of its
    base classes. What the module itself imports is not looked at.
    """
    names = {module for function in functions for module in _modules(function)} | {*modules}
    return {name: _which(name) for name in sorted(names) if name.partition(".")[0] != PACKAGE}


def installed(module: str) -> bool:
    """Whether the module, which has been imported, is of a distribution, so that its version says what it is."""
    return not _which(module).startswith("sha256:")


def _modules(function: Callable[..., Any]) -> set[str]:
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    if not inspect.isclass(function):
        return {function.__module__}
    return {base.__module__ for base in function.__mro__ if base.__module__.partition(".")[0] not in KNOWN}


@cache  # once per process: what is imported stays what it is
def _which(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    for name in metadata.packages_distributions().get(module.partition(".")[0], []):
        distribution = metadata.distribution(name)
        if file and any(str(distribution.locate_file(part)) == file for part in distribution.files or []):
            return f"{name} {distribution.version}"
    return f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()}" if file else "unknown"
