"""How important is a weight: a criterion gives each prunable weight a score, larger = keep.

A new criterion is one function Scoring -> Scores, entered in CRITERIA; its keyword-only parameters are settings of
`prune`, so `prune.criterion=NAME prune.SETTING=...` reach it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Scores = Mapping[str, Tensor]
"""Parameter name -> tensor of the parameter's shape."""


@dataclass(frozen=True)
class Scoring:
    """What a criterion may look at. The network is a copy in evaluation mode, so a criterion may change it."""

    model: nn.Module
    weights: Mapping[str, nn.Parameter]  # the prunable ones, those of `model` itself
    batches: Iterable[tuple[Tensor, Tensor]]  # images (B, 3, H, W) as the network takes them, and labels (B,)
    generator: torch.Generator  # on the CPU; decided by the seed


@dataclass(frozen=True)
class Criterion:
    """`score` with its keyword-only settings; `rounds` is how often it scores and prunes to reach a sparsity."""

    score: Callable[..., Scores]
    rounds: int = 1

    def with_settings(self, **settings: Any) -> "Criterion":
        return replace(self, score=partial(self.score, **settings))


def magnitude(given: Scoring) -> Scores:
    """|w| (Han et al. 2015, arXiv 1506.02626)."""
    return {name: weight.abs() for name, weight in given.weights.items()}


def random(given: Scoring) -> Scores:
    """Uniform in [0, 1): the control that every criterion has to beat."""
    return {name: torch.rand(weight.shape, generator=given.generator) for name, weight in given.weights.items()}


CRITERIA: dict[str, Criterion] = {"magnitude": Criterion(magnitude), "random": Criterion(random)}
