"""Masks that change while a network trains: gradual pruning, and sparse training that drops and grows.

A new one is a function as `Updates` says, and a stage that hands it to `Context.trained`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning import rng
from pruning.masks.lowest import drop_lowest
from pruning.masks.mask import Mask

Updates = Callable[[int, int, nn.Module, Mask], Mask | None]
"""(optimizer step from 0, of how many, the network with this step's gradients, its mask) -> the next mask, if another.

Masks are on the network's device or on the CPU; nothing but the arguments may decide what comes out.
"""


Growth = Callable[[nn.Parameter, torch.Generator], Tensor]
"""(a weight with its gradient, a stream of its layer and step) -> scores of its shape: the highest are grown."""


@dataclass(frozen=True, kw_only=True)
class Gradual:
    """Prune to `sparsity` along a cubic curve: quickly at first, slower as less is left (Zhu and Gupta 2017).

    s(t) = sparsity + (initial - sparsity) (1 - (t - t0) / (t1 - t0))^3, arXiv 1710.01878, at every `interval`
    steps between the fractions `begin` and `until` of all steps; the last one, at t1, is exact.
    """

    prune: Callable[[nn.Module, float, Mask], Mask]  # to a sparsity, from a mask that stays
    sparsity: float
    initial: float = 0.0
    begin: float = 0.0
    until: float = 0.75
    interval: int = 100

    def __call__(self, step: int, steps: int, model: nn.Module, mask: Mask) -> Mask | None:
        last = min(round(self.until * steps), steps - 1)
        first = min(round(self.begin * steps), last)
        if step == last:
            return self.prune(model, self.sparsity, mask)
        if not first < step < last or (step - first) % self.interval:
            return None
        left = 1 - (step - first) / (last - first)
        return self.prune(model, self.sparsity + (self.initial - self.sparsity) * left**3, mask)


def by_gradient(weight: nn.Parameter, _generator: torch.Generator) -> Tensor:
    """|dL/dw|, RigL: where the loss would fall fastest (Evci et al. 2020, arXiv 1911.11134)."""
    if weight.grad is None:
        raise ValueError("a weight without a gradient cannot be grown by it")
    return weight.grad.abs()


def at_random(weight: nn.Parameter, generator: torch.Generator) -> Tensor:
    """Uniform, SET: anywhere (Mocanu et al. 2018, arXiv 1707.04780)."""
    return torch.rand(weight.shape, generator=generator)


@dataclass(frozen=True, kw_only=True)
class DropAndGrow:
    """In each layer drop the smallest weights and grow as many others: its count never changes.

    Every `interval` steps until the fraction `until` of all, the share `fraction` / 2 * (1 + cos(pi t / t1)) of the
    kept weights goes; what `growth` scores highest of all that is not kept then comes, from zero (Evci et al. 2020).
    """

    growth: Growth
    seed: int
    fraction: float = 0.3
    until: float = 0.75
    interval: int = 100

    def __call__(self, step: int, steps: int, model: nn.Module, mask: Mask) -> Mask | None:
        end = self.until * steps
        if step == 0 or step % self.interval or step >= end:
            return None
        share = self.fraction / 2 * (1 + math.cos(math.pi * step / end))
        generator = rng.generator(self.seed, "growth", step)
        found = {}
        for name, keep in mask.items():
            weight, alive = model.get_parameter(name), keep.cpu()
            size, kept = alive.numel(), int(alive.sum())
            moved = int(share * kept)
            (left,) = drop_lowest([weight.detach().abs()], [alive], size - kept + moved)
            (grown,) = drop_lowest([self.growth(weight, generator)], [~left], size - moved)
            found[name] = left | grown
        return found
