"""How sure a mean over seeds is: pure functions of few numbers, by Student's t (Student 1908, Biometrika 6:1)."""

import math
from collections.abc import Mapping, Sequence

CONFIDENCE = 0.95
ENOUGH = 3  # seeds below which a mean is shown with a warning
MOST_SEEDS = 50  # that are looked through for how many would be needed


def mean(values: Sequence[float]) -> float:
    """Return sum(x) / n; n >= 1."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, sqrt(sum((x - mean)^2) / (n - 1)); None for n < 2."""
    if len(values) < 2:
        return None
    if len(set(values)) == 1:  # rounding in the mean would leave a width
        return 0.0
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the two-sided 95 % interval of the mean, mean -+ t(0.975; n - 1) s / sqrt(n); None for n < 2.

    It supposes independent, about normal values. Without variance it has no width, which says that the sample shows
    none, not that there is none.
    """
    if (spread := deviation(values)) is None:
        return None
    half = _quantile((1 + CONFIDENCE) / 2, len(values)) * spread / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def upper_bound(values: Sequence[float], n: int | None = None) -> float | None:
    """Return the one-sided 95 % bound from above of the mean, mean + t(0.95; n - 1) s / sqrt(n); None for n < 2.

    "The loss is below the tolerance with 95 % confidence" is: the bound of the losses is below it. With `n`, the bound
    that n values of this mean and spread would have.
    """
    if (spread := deviation(values)) is None:
        return None
    n = n or len(values)
    return mean(values) + _quantile(CONFIDENCE, n) * spread / math.sqrt(n)


def seeds_needed(values: Sequence[float], limit: float) -> int | None:
    """Return the least n with which `upper_bound` would be below `limit` if mean and spread stayed; None if no n is.

    A guess for planning, not a promise: the next seeds have another mean. For fewer than two values it is ENOUGH.
    """
    if len(values) < 2:
        return ENOUGH
    enough = (n for n in range(len(values), MOST_SEEDS + 1) if (upper_bound(values, n) or 0.0) < limit)
    return next(enough, None) if mean(values) < limit else None


def paired(values: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    """Return value - other for each seed that both have, by seed: what the seeds share cancels out."""
    return [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]


def paired_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of Student's paired test that the mean difference is 0; None for n < 2.

    Without variance it is 1 for differences of 0 (ties), else 0, the limit of t.
    """
    if (spread := deviation(differences)) is None:
        return None
    if spread == 0:
        return 1.0 if mean(differences) == 0 else 0.0
    from scipy import stats

    t = abs(mean(differences)) / spread * math.sqrt(len(differences))
    return float(2 * stats.t.sf(t, len(differences) - 1))


def holm(values: Sequence[float]) -> list[float]:
    """Return the p values corrected for their number, in their order (Holm 1979, Scand. J. Statist. 6:65).

    The k-th smallest of m is times m - k + 1, never below the one before it, at most 1. The chance of any false
    rejection stays below the level, whatever the dependence.
    """
    found, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        found[place] = least
    return found


def _quantile(probability: float, n: int) -> float:
    from scipy import stats  # slow to import, and only a report needs it

    return float(stats.t.ppf(probability, n - 1))
