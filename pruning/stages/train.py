"""Train a dense network."""

from pruning import archs, rng
from pruning.checkpoints import Checkpoint
from pruning.stages.context import Context
from pruning.training import TrainRecipe


def train(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train a dense network from a fresh initialisation."""
    model = context.new_model()
    archs.initialise(model, rng.generator(context.seed, "init"))
    return context.trained(model, {}, recipe)
