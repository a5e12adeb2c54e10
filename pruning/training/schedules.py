"""The learning rate over the progress of a step, as pure functions of numbers.

A new schedule is one function progress -> factor of the peak, entered in SCHEDULES; its keyword-only parameters are
settings of training. `progress` is the fraction of all optimizer steps already made, `left` falls from 1 to 0 after
the warm-up.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any


def constant(_progress: float, _left: float) -> float:
    """The peak."""
    return 1.0


def steps(progress: float, _left: float, *, milestones: Sequence[float], decay: float) -> float:
    """Times `decay` at each of `milestones`, fractions of the whole, warm-up included."""
    return decay ** sum(progress >= milestone for milestone in milestones)


def linear(_progress: float, left: float, *, end: float) -> float:
    """Down to `end` times the peak in a straight line."""
    return end + (1 - end) * left


def cosine(_progress: float, left: float, *, end: float) -> float:
    """Down to `end` times the peak along half a cosine."""
    return end + (1 - end) * half_cosine(left)


def one_cycle(progress: float, left: float, *, end: float) -> float:
    """As `cosine`, counted as torch's OneCycleLR does: the peak is a step earlier, the last step is at the end."""
    return cosine(progress, left, end=end)


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "steps": steps,
    "linear": linear,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


def progress_at(step: int, steps: int, schedule: str, warmup: float) -> float:
    """Return the progress, in [0, 1], that `learning_rate` takes for step number `step` (from 0) of `steps`.

    That is step / steps; for "one_cycle" the peak is at step `warmup * steps - 1`, and the last step has progress 1.
    """
    if schedule != "one_cycle":
        return step / steps
    peak = warmup * steps - 1
    if step < peak:
        return warmup * step / peak
    return warmup + (1 - warmup) * (step - peak) / (steps - 1 - peak)


def cycled_momentum(progress: float, high: float, low: float, warmup: float) -> float:
    """Return the momentum that falls from `high` to `low` while the rate rises, and rises again (cosine-shaped)."""
    far = progress / warmup if progress < warmup else 1 - (progress - warmup) / (1 - warmup)
    return high + (low - high) * half_cosine(far)


def learning_rate(
    progress: float, peak: float, *, schedule: str = "constant", warmup: float = 0.0, start: float = 0.0, **shape: Any
) -> float:
    """Return the learning rate at `progress` in [0, 1], the fraction of all optimizer steps already made.

    It rises from `start * peak` to `peak` over the first `warmup` (a fraction of the whole), then follows the
    schedule, whose settings are `shape`. The rise is cosine-shaped for "cosine" and "one_cycle", which with a warm-up
    are the one-cycle schedule (Smith and Topin 2017, arXiv 1708.07120); it is linear otherwise.
    """
    fall = SCHEDULES[schedule]
    if progress < warmup:
        rise = progress / warmup
        return peak * (start + (1 - start) * (half_cosine(rise) if fall in (cosine, one_cycle) else rise))
    return peak * fall(progress, 1 - (progress - warmup) / (1 - warmup), **shape)


def half_cosine(x: float) -> float:
    """Map [0, 1] onto itself along half a cosine."""
    return (1 - math.cos(math.pi * x)) / 2
