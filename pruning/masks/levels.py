"""The way to a sparsity: at once, or in levels with training between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.errors import UserError, check_choice
from pruning.settings import Settings, check_range, setting

SPACINGS = ("geometric", "linear")


def sparsities(
    target: float, *, count: int = 1, spacing: str = "geometric", at: Sequence[float] | None = None, start: float = 0.0
) -> tuple[float, ...]:
    """Return the sparsities from above `start` to `target`, increasing, the target last and as it is given.

    "geometric" keeps the same fraction of what is left at each level (Frankle and Carbin 2019, arXiv 1803.03635),
    "linear" prunes the same number of weights; both are rounded to six digits. `at` gives the levels themselves:
    those between `start` and `target` are used, so that a way to a higher target contains the way to a lower one.
    `target` and `start` are in [0, 1]; a target at or below the start is the only level.
    """
    check_choice("spacing", spacing, SPACINGS)
    for name, value in (("target", target), ("start", start)):
        check_range(name, value, {"least": 0, "most": 1})
    if count < 1:
        raise UserError(f"count must be >= 1, got {count}", "count")
    if at is not None:
        levels = sorted(set(at))
    elif spacing == "linear":
        levels = [start + (target - start) * i / count for i in range(1, count)]
    else:
        left = (1 - target) / (1 - start) if start < 1 else 1.0
        levels = [1 - (1 - start) * left ** (i / count) for i in range(1, count)]
    between = dict.fromkeys(round(level, 6) for level in levels)
    return (*(level for level in between if start < level < target), target)


@dataclass(frozen=True, kw_only=True)
class Levels(Settings):
    """The settings of `sparsities`; never part of an id, because a step knows its own sparsity only."""

    count: int = setting(1, least=1)
    spacing: str = setting("geometric", among=SPACINGS)
    at: tuple[float, ...] | None = setting(None, least=0, below=1)

    def sparsities(self, target: float, start: float = 0.0) -> tuple[float, ...]:
        return sparsities(target, count=self.count, spacing=self.spacing, at=self.at, start=start)
