"""Finetune a pruned network."""

from pruning.checkpoints import Checkpoint
from pruning.stages.context import Context
from pruning.training import TrainRecipe


def finetune(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train the parent's kept weights further; the pruned ones stay exactly zero (Han et al. 2015, section 3)."""
    parent = context.start
    return context.trained(parent.network(), parent.mask, recipe)
