"""Controls: masks that a good one has to beat, with the same number of weights in each layer, or of the worst."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pruning import rng
from pruning.masks.mask import Mask
from pruning.masks.scoring import Criterion, Scores, Scoring

CONTROLS = ("none", "shuffled", "inverted")


def inverted(criterion: Criterion) -> Criterion:
    """Return the criterion with its order turned round: what it would keep longest goes first."""

    def score(given: Scoring) -> Scores:
        return {name: -value for name, value in criterion.score(given).items()}

    return Criterion(score, criterion.rounds)


def shuffled(mask: Mapping[str, Tensor], previous: Mapping[str, Tensor], seed: int) -> Mask:
    """Return a mask that keeps as many weights of each layer, at random places among those that `previous` keeps.

    Whether it is as good says if a method finds weights, or only how many each layer needs (Frankle et al. 2021, arXiv
    2009.08576; Su et al. 2020, arXiv 2009.11094).
    """
    generator = rng.generator(seed, "control")
    found: Mask = {}
    for name, keep in mask.items():
        alive = previous[name] if name in previous else torch.ones_like(keep)
        places = alive.flatten().nonzero().flatten()
        chosen = places[torch.randperm(len(places), generator=generator)[: int(keep.sum())]]
        found[name] = torch.zeros_like(keep).flatten().index_fill_(0, chosen, True).reshape(keep.shape)
    return found
