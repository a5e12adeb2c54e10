"""How important is a weight: a criterion maps (model, names, batch, generator) to scores, larger = keep.

A new criterion is one function here, entered in CRITERIA, and `prune.criterion=its_name`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Scores = dict[str, Tensor]
Criterion = Callable[[nn.Module, Sequence[str], Batch, torch.Generator], Scores]


def magnitude(model: nn.Module, names: Sequence[str], batch: Batch, generator: torch.Generator) -> Scores:
    """|w| (Han et al. 2015, arXiv 1506.02626)."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().abs() for name in names}


def random(model: nn.Module, names: Sequence[str], batch: Batch, generator: torch.Generator) -> Scores:
    """Uniform in [0, 1): the control that every criterion has to beat."""
    parameters = dict(model.named_parameters())
    return {name: torch.rand(parameters[name].shape, generator=generator).to(parameters[name].device) for name in names}


CRITERIA: dict[str, Criterion] = {"magnitude": magnitude, "random": random}
