"""The stages: each takes a frozen context and its recipe, and returns a checkpoint. Nothing else comes back.

A new stage is one function here, entered in STAGES with its recipe, and a YAML in conf/stage.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pruning import archs, masks, rng
from pruning.checkpoints import Checkpoint, snapshot
from pruning.criteria import CRITERIA
from pruning.data import Data, train_batches
from pruning.recipes import FinetuneRecipe, PruneRecipe, TrainRecipe
from pruning.training import Journal, fit


@dataclass(frozen=True)
class Context:
    """What every stage is given. `parent` is where it starts from, None for a dense network from nothing."""

    arch: str
    num_classes: int
    data: Data
    seed: int
    precision: str
    parent: Checkpoint | None
    journal: Journal

    @property
    def device(self) -> torch.device:
        return self.data.train.images.device

    def parent_model(self) -> nn.Module:
        """Return a new network with the parent's weights."""
        assert self.parent is not None
        return self.parent.load_into(archs.build(self.arch, self.num_classes)).to(self.device)

    def checkpoint(self, model: nn.Module, mask: masks.Mask) -> Checkpoint:
        normalisation = {"mean": list(self.data.mean), "std": list(self.data.std)}
        return Checkpoint(snapshot(model), mask, self.arch, self.num_classes, normalisation)


def train(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train a dense network from a fresh initialisation."""
    model = archs.build(context.arch, context.num_classes)
    archs.initialise(model, rng.generator(context.seed, "init"))
    return _fitted(context, model, {}, recipe)


def prune(context: Context, recipe: PruneRecipe) -> Checkpoint:
    """Remove the parent's lowest-scoring weights; train nothing (Han et al. 2015, arXiv 1506.02626, section 3)."""
    assert context.parent is not None
    model = context.parent_model()
    names = masks.prunable(model, recipe.layers)
    batch = next(iter(train_batches(context.data, batch_size=128, seed=context.seed, epoch=0)))
    scores = CRITERIA[recipe.criterion](model, names, batch, rng.generator(context.seed, "criterion"))
    scores = {name: score.cpu() for name, score in scores.items()}
    chosen = masks.keep_top(scores, sparsity=recipe.percent, scope=recipe.scope, within=context.parent.mask)
    mask = context.parent.mask | chosen
    return replace(context.parent, weights=masks.applied(mask, context.parent.weights), mask=mask)


def finetune(context: Context, recipe: FinetuneRecipe) -> Checkpoint:
    """Train the parent's kept weights on; the pruned ones stay exactly zero."""
    assert context.parent is not None
    return _fitted(context, context.parent_model(), context.parent.mask, recipe)


def _fitted(context: Context, model: nn.Module, mask: masks.Mask, recipe: TrainRecipe) -> Checkpoint:
    mask = {name: keep.to(context.device) for name, keep in mask.items()}
    fit(
        model,
        mask,
        context.data,
        recipe,
        seed=context.seed,
        precision=context.precision,
        journal=context.journal,
    )
    return context.checkpoint(model, {name: keep.cpu() for name, keep in mask.items()})


STAGES: dict[str, Callable[[Context, Any], Checkpoint]] = {"train": train, "prune": prune, "finetune": finetune}
