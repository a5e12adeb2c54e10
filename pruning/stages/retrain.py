"""Other ways from a mask to a trained network than finetuning: what finetuning has to beat at equal cost."""

from pruning import archs, rng
from pruning.checkpoints import Checkpoint
from pruning.masks import masked
from pruning.stages.context import Context
from pruning.training import TrainRecipe


def lr_rewind(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train the parent's kept weights further, with the learning rates of a whole training.

    (Renda et al. 2020, arXiv 2003.02389.) `recipe` is that of `train` unless it is given.
    """
    parent = context.start
    return context.trained(parent.network(), parent.mask, recipe)


def rewind(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train the kept weights from the initialisation of their dense network: the lottery ticket.

    (Frankle and Carbin 2019, arXiv 1803.03635.) The seed decides that initialisation, so no file is needed.
    """
    return _from_initialisation(context, recipe, "init")


def scratch_e(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train the kept weights from another initialisation, as long as the dense network.

    (Liu et al. 2019, arXiv 1810.05270.) The mask is all that is left of what was learnt.
    """
    return _from_initialisation(context, recipe, "scratch init")


def _from_initialisation(context: Context, recipe: TrainRecipe, stream: str) -> Checkpoint:
    mask, model = context.start.mask, context.new_model()
    archs.initialise(model, rng.generator(context.seed, stream))
    model.load_state_dict(masked(model.state_dict(), mask))
    return context.trained(model, mask, recipe)
