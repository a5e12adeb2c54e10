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


def foreign_code(functions: Iterable[Callable[..., Any]]) -> dict[str, str]:
    """Return, by module, which code the functions from outside this package are.

    That is the version of an installed distribution, else a hash of the module's source; what the module itself
    imports is not looked at.
    """
    found: dict[str, str] = {}
    for function in functions:
        while isinstance(function, partial):
            function = function.func
        module = inspect.unwrap(function).__module__
        if module.partition(".")[0] != PACKAGE:
            found[module] = _which(module)
    return dict(sorted(found.items()))


@cache  # once per process: what is imported stays what it is
def _which(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    for name in metadata.packages_distributions().get(module.partition(".")[0], []):
        distribution = metadata.distribution(name)
        if file and any(str(distribution.locate_file(part)) == file for part in distribution.files or []):
            return f"{name} {distribution.version}"
    return f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()}" if file else "unknown"
