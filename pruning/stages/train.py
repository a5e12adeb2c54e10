"""Train a dense network."""

from pruning.checkpoints import Checkpoint
from pruning.stages.context import Context
from pruning.training import TrainRecipe


def train(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train a dense network from a fresh initialisation."""
    return context.trained(context.new_model(), {}, recipe)
