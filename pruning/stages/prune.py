"""Prune a network."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruning import masks
from pruning.checkpoints import Checkpoint
from pruning.data import train_batches
from pruning.errors import UserError
from pruning.masks import CRITERIA, KINDS, SCOPES
from pruning.masks.controls import CONTROLS, inverted, shuffled
from pruning.settings import Axes, Settings, setting
from pruning.stages.context import Context

SELECTING = ("criterion", "scope", "layers", "include", "exclude")  # what a mask from elsewhere has decided already
BATCH = 128  # images in a batch that a criterion looks at


@dataclass(frozen=True, kw_only=True)
class Selection(Settings):
    """What goes, and how that is found; `sparsity` is cumulative, and called `percent` in the config."""

    KEYS: ClassVar = {"sparsity": "percent"}

    sparsity: float = setting(least=0, below=1)
    criterion: str = "magnitude"
    scope: str = "global"
    layers: str = setting("conv", among=tuple(KINDS))
    include: tuple[str, ...] = ()  # patterns for the names of layers
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("include", "exclude"):  # in whatever order they are given
            object.__setattr__(self, key, tuple(sorted(set(getattr(self, key)))))

    @classmethod
    def axes(cls) -> Axes:
        return {"criterion": {name: criterion.score for name, criterion in CRITERIA.items()}, "scope": SCOPES}

    def idle(self) -> set[str]:
        return super().idle() | ({"criterion", "scope", *self.options} if self.sparsity == 0 else set())

    def from_model(
        self, model: nn.Module, sparsity: float, mask: masks.Mask, context: Context, *, inverse: bool = False
    ) -> masks.Mask:
        """Return the mask that prunes `model` to `sparsity`, from `mask` on; `inverse`: the best scores go first."""
        if context.device.type == "mps":  # which has no float64
            model = copy.deepcopy(model).cpu()
        criterion = CRITERIA[self.criterion].with_settings(**self.arguments("criterion"))
        return masks.prune(
            model,
            sparsity,
            inverted(criterion) if inverse else criterion,
            partial(SCOPES[self.scope], **self.arguments("scope")),
            layers=self.layers,
            include=self.include,
            exclude=self.exclude,
            previous=mask,
            batches=Batches(context, next(model.parameters()).device),
            seed=context.seed,
        )


@dataclass(frozen=True, kw_only=True)
class PruneRecipe(Selection):
    """How to prune at once; `mask_from` comes with the plan, as the input "mask", in place of a criterion."""

    ADVICE: ClassVar = ", or prune.mask_from=ID_OR_PATH"

    control: str = setting("none", among=CONTROLS)
    mask_from: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_from is not None and self.control == "inverted":
            raise UserError("control=inverted turns a criterion round, and with mask_from none is asked", "control")

    def idle(self) -> set[str]:
        idle = super().idle() | {"mask_from"} | ({"control"} if self.sparsity == 0 else set())
        return idle if self.mask_from is None else {*idle, *SELECTING, *self.options}


def prune(context: Context, recipe: PruneRecipe) -> Checkpoint:
    """Remove the parent's lowest-scoring weights; train nothing (Han et al. 2015, arXiv 1506.02626, section 3).

    With an input "mask" the weights go that are pruned there, whatever they are worth here.
    """
    parent = context.start
    if "mask" in context.inputs:
        mask = context.inputs["mask"].mask
    else:
        model, inverse = parent.network().to(context.device), recipe.control == "inverted"
        mask = recipe.from_model(model, recipe.sparsity, parent.mask, context, inverse=inverse)
    if recipe.control == "shuffled":
        mask = shuffled(mask, parent.mask, context.seed)
    return replace(parent, weights=masks.masked(parent.weights, mask), mask=mask)


@dataclass(frozen=True)
class Batches:
    """Augmented training batches for a criterion, on its device: one epoch, the same each time it asks."""

    context: Context
    device: torch.device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        context = self.context
        for batch in train_batches(context.data, batch_size=BATCH, seed=context.seed, purpose=context.purpose, epoch=0):
            yield batch[0].to(self.device), batch[1].to(self.device)
