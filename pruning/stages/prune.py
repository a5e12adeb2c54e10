"""Prune a network."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import Tensor

from pruning import masks
from pruning.checkpoints import Checkpoint
from pruning.data import train_batches
from pruning.masks import CRITERIA, KINDS, SCOPES
from pruning.masks.controls import CONTROLS, inverted, shuffled
from pruning.settings import Axes, Settings, setting
from pruning.stages.context import Context

BATCH = 128  # images in a batch that a criterion looks at


@dataclass(frozen=True, kw_only=True)
class PruneRecipe(Settings):
    """What to remove; `sparsity` is cumulative, and called `percent` in the config."""

    KEYS: ClassVar = {"sparsity": "percent"}

    sparsity: float = setting(least=0, below=1)
    criterion: str = "magnitude"
    scope: str = "global"
    layers: str = setting("conv", among=tuple(KINDS))
    include: tuple[str, ...] = ()  # patterns for the names of layers
    exclude: tuple[str, ...] = ()
    control: str = setting("none", among=CONTROLS)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("include", "exclude"):  # in whatever order they are given
            object.__setattr__(self, key, tuple(sorted(set(getattr(self, key)))))

    @classmethod
    def axes(cls) -> Axes:
        return {"criterion": {name: criterion.score for name, criterion in CRITERIA.items()}, "scope": SCOPES}

    def idle(self) -> set[str]:
        return super().idle() | ({"criterion", "scope", "control", *self.options} if self.sparsity == 0 else set())


def prune(context: Context, recipe: PruneRecipe) -> Checkpoint:
    """Remove the parent's lowest-scoring weights; train nothing (Han et al. 2015, arXiv 1506.02626, section 3)."""
    parent = context.start
    criterion = CRITERIA[recipe.criterion].with_settings(**recipe.arguments("criterion"))
    mask = masks.prune(
        parent.network().to(context.device),
        recipe.sparsity,
        inverted(criterion) if recipe.control == "inverted" else criterion,
        partial(SCOPES[recipe.scope], **recipe.arguments("scope")),
        layers=recipe.layers,
        include=recipe.include,
        exclude=recipe.exclude,
        previous=parent.mask,
        batches=Batches(context),
        seed=context.seed,
    )
    if recipe.control == "shuffled":
        mask = shuffled(mask, parent.mask, context.seed)
    return replace(parent, weights=masks.masked(parent.weights, mask), mask=mask)


@dataclass(frozen=True)
class Batches:
    """Augmented training batches for a criterion: one epoch, the same each time it asks."""

    context: Context

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        context = self.context
        return train_batches(context.data, batch_size=BATCH, seed=context.seed, purpose=context.purpose, epoch=0)
