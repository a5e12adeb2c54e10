"""What a criterion is: it gives each prunable weight a score, larger = keep."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pruning.errors import UserError

Scores = Mapping[str, Tensor]
"""Parameter name -> tensor of the parameter's shape."""


@dataclass(frozen=True)
class Scoring:
    """What a criterion may look at. The network is a copy in evaluation mode, so a criterion may change it."""

    model: nn.Module
    weights: Mapping[str, nn.Parameter]  # the prunable ones, those of `model` itself
    batches: Iterable[tuple[Tensor, Tensor]]  # images (B, 3, H, W) as the network takes them, and labels (B,)
    generator: torch.Generator  # on the CPU; decided by the seed

    def first(self, n: int) -> list[tuple[Tensor, Tensor]]:
        """Return the first `n` batches, or all if there are fewer; UserError if there are none, or n < 1."""
        if n < 1:
            raise UserError(f"batches must be >= 1, got {n}", "batches")
        if not (found := list(islice(self.batches, n))):
            raise UserError("this criterion looks at images: give batches of them", "batches")
        return found


@dataclass(frozen=True)
class Criterion:
    """`score` with its keyword-only settings; `rounds` is how often it scores and prunes to reach a sparsity."""

    score: Callable[..., Scores]
    rounds: int = 1

    def with_settings(self, **settings: Any) -> "Criterion":
        return replace(self, score=partial(self.score, **settings))
