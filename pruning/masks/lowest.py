"""The lowest of many scores, dropped: exactly so many, in about one pass over them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK = 1 << 17  # scores: what is compared several times stays in the processor's cache
SAMPLE, DEVIATIONS = 1 << 15, 4  # how many, and how far off its quantile may be, in standard deviations


def drop_lowest(scores: Sequence[Tensor], alive: Sequence[Tensor | None], pruned: int) -> list[Tensor]:
    """Return which of the scores stay (bool, on the CPU, of their shapes): `pruned` of all do not, the lowest.

    Those that are not `alive` (bool; None: all of these are) have gone already and count; of equal scores the earlier
    stays; nan is the lowest. ValueError if more than `pruned` are not alive, or there are fewer.
    """
    values = [_flat(score) for score in scores]
    living = [None if keep is None else _flat(keep) for keep in alive]
    size = sum(map(len, values))
    dead = sum(len(keep) - int(np.count_nonzero(keep)) for keep in living if keep is not None)
    if not dead <= pruned <= size:
        raise ValueError(f"a scope asks for {pruned} pruned of {size} weights, {dead} are already")
    if pruned == dead:
        return [
            torch.ones(s.shape, dtype=torch.bool) if a is None else a.cpu().clone()
            for s, a in zip(scores, alive, strict=True)
        ]
    low, high = _bounds(values, living, pruned - dead, size - dead)
    kept = _kept(values, living, size - pruned, low, high) or _kept(values, living, size - pruned, -np.inf, np.inf)
    assert kept
    return [torch.from_numpy(keep).view(score.shape) for keep, score in zip(kept, scores, strict=True)]


def _flat(tensor: Tensor) -> Array:
    found = tensor.detach().cpu().flatten()
    return (found.float() if found.dtype in (torch.bfloat16, torch.float16) else found).numpy()


def _bounds(values: Sequence[Array], living: Sequence[Array | None], k: int, size: int) -> tuple[float, float]:
    """Return two values between which the k-th smallest of the `size` that live lies, but for one time in thousands.

    From a sample of many (Floyd and Rivest 1975, doi 10.1145/360680.360691).
    """
    step = max(size // SAMPLE, 1)
    some = [
        part[::step] if keep is None else part[::step][keep[::step]] for part, keep in zip(values, living, strict=True)
    ]
    sample = np.sort(np.concatenate(some))
    at, off = k * len(sample) // size, round(DEVIATIONS * len(sample) ** 0.5 / 2)
    few = size < 4 * SAMPLE or at < off
    return -np.inf if few else sample[at - off], np.inf if few or at + off >= len(sample) else sample[at + off]


def _kept(
    values: Sequence[Array], living: Sequence[Array | None], count: int, low: float, high: float
) -> list[Array] | None:
    """Return the `count` highest, or None if the last of them does not lie between `low` and `high`."""
    kept = [np.empty(len(part), dtype=bool) for part in values]
    undecided: list[tuple[Array, Array, Array]] = []  # where they are written, at which positions, their scores
    for part, keep, alive in _chunks(values, kept, living):
        np.greater(part, high, out=keep)
        among = part < low
        among |= keep
        np.logical_not(among, out=among)  # so nan is among these
        if alive is not None:
            keep &= alive
            among &= alive
        positions = np.flatnonzero(among)
        undecided.append((keep, positions, part[positions]))
        count -= int(np.count_nonzero(keep))
    among = np.concatenate([scores for _, _, scores in undecided])
    nan = np.isnan(among)
    if not 0 <= count <= len(among) or (nan.any() and low > -np.inf):
        return None
    if nan.any():
        among[nan] = -np.inf
    stay = _highest(among, count)
    for keep, positions, _ in undecided:
        keep[positions], stay = stay[: len(positions)], stay[len(positions) :]
    return kept


def _chunks(
    values: Sequence[Array], kept: Sequence[Array], living: Sequence[Array | None]
) -> Iterator[tuple[Array, Array, Array | None]]:
    for part, keep, alive in zip(values, kept, living, strict=True):
        for at in range(0, len(part), CHUNK):
            chunk = slice(at, at + CHUNK)
            yield part[chunk], keep[chunk], None if alive is None else alive[chunk]


def _highest(scores: Array, count: int) -> Array:
    """Return which are the `count` highest, of equal ones the earlier."""
    if not count:
        return np.zeros(len(scores), dtype=bool)
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    keep = scores > threshold
    keep[np.flatnonzero(scores == threshold)[: count - int(np.count_nonzero(keep))]] = True
    return keep
