"""Pure functions of numbers: the learning rate over the progress of a step."""

import math
from collections.abc import Sequence

SHAPES = ("constant", "steps", "linear", "cosine")


def learning_rate(
    progress: float,
    peak: float,
    *,
    schedule: str = "constant",
    warmup: float = 0.0,
    start: float = 0.0,
    end: float = 0.0,
    milestones: Sequence[float] = (0.5, 0.75),
    decay: float = 0.1,
) -> float:
    """Return the learning rate at `progress` in [0, 1], the fraction of all optimizer steps already made.

    It rises from `start * peak` to `peak` over the first `warmup` (a fraction of the whole), then follows the
    schedule: "constant"; "steps" times `decay` at each of `milestones` (fractions of the whole, warm-up included);
    "linear" or "cosine" down to `end * peak`. The rise is cosine-shaped for "cosine", so that "cosine" with a
    warm-up is the one-cycle schedule (Smith & Topin, arXiv 1708.07120); it is linear otherwise.
    """
    if progress < warmup:
        rise = progress / warmup
        rise = (1 - math.cos(math.pi * rise)) / 2 if schedule == "cosine" else rise
        return peak * (start + (1 - start) * rise)
    if schedule == "constant":
        return peak
    if schedule == "steps":
        return peak * decay ** sum(progress >= milestone for milestone in milestones)
    left = 1 - (progress - warmup) / (1 - warmup)
    left = (1 - math.cos(math.pi * left)) / 2 if schedule == "cosine" else left
    return peak * (end + (1 - end) * left)
