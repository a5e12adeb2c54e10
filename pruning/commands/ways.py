"""What commands are handed by whoever knows configs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ways:
    """What commands may use of the world of configs."""

    make: Callable[[dict[str, Any]], None] | None  # makes the result that a config asks for; None: not here
    compose: Callable[[str], Mapping[str, Any]]  # the config that `dataset=NAME` alone gives
