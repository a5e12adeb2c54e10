"""Other ways from a mask to a trained network than finetuning: what finetuning has to beat at equal cost."""

from dataclasses import dataclass, replace

from pruning.checkpoints import Checkpoint
from pruning.errors import UserError
from pruning.masks import cost, masked
from pruning.modules import load_states, states
from pruning.settings import setting
from pruning.stages.context import Context
from pruning.training import TrainRecipe


def lr_rewind(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train the parent's kept weights further, with the learning rates of a whole training.

    (Renda et al. 2020, arXiv 2003.02389.) `recipe` is that of `train` unless it is given.
    """
    parent = context.start
    return context.trained(parent.network(), parent.mask, recipe)


@dataclass(frozen=True, kw_only=True)
class RewindRecipe(TrainRecipe):
    """How to train, and from where: `epochs` count from the initialisation, those before `epoch` are not made again."""

    epoch: int = setting(0, least=0)  # 0: the initialisation

    @property
    def length(self) -> int:
        return self.epochs - self.epoch

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epoch and self.epoch >= self.epochs:
            text = f"epoch must be below epochs={self.epochs}, of which those after it are trained, got {self.epoch}"
            raise UserError(text, "epoch")


def rewind(context: Context, recipe: RewindRecipe) -> Checkpoint:
    """Train the kept weights from where their dense network was after `recipe.epoch` epochs, as that went on.

    At epoch 0 that is its initialisation, the lottery ticket (Frankle and Carbin 2019, arXiv 1803.03635); the seed
    decides it, so no file is needed. At a later one it is the input "start", all buffers included (Frankle et al. 2020,
    arXiv 1912.05671); the rates are those of the epochs that follow.
    """
    if not recipe.epoch:
        return _from_initialisation(context, recipe, "init")
    mask, start = context.start.mask, context.inputs["start"]
    model = replace(start, weights=masked(start.weights, mask), mask=mask).network()
    return context.trained(model, mask, recipe, first_epoch=recipe.epoch)


def scratch_e(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train the kept weights from another initialisation, as long as the dense network.

    (Liu et al. 2019, arXiv 1810.05270.) The mask is all that is left of what was learnt.
    """
    return _from_initialisation(context, recipe, "scratch init")


@dataclass(frozen=True, kw_only=True)
class ScratchBRecipe(TrainRecipe):
    """How to train: `epochs` are those of the dense network, whose multiply-adds are the budget."""

    max_epochs: int | None = setting(None, least=0)  # None: twice `epochs`

    @property
    def length(self) -> int:
        return 2 * self.epochs if self.max_epochs is None else self.max_epochs


def scratch_b(context: Context, recipe: ScratchBRecipe) -> Checkpoint:
    """Train the kept weights from the initialisation of `scratch_e` until they took the multiply-adds of the dense one.

    (Liu et al. 2019, arXiv 1810.05270, who stop at twice the epochs.) `recipe.epochs`, times the multiply-adds of the
    dense network for an image, over those of the masked one, rounded, at most `recipe.length`; the learning rates
    stretch with it.
    """
    shape = context.data.train.images.shape
    counted = cost(context.start.network(), context.start.mask, (3, shape[1], shape[2]))
    wanted = round(recipe.epochs * counted["macs"] / max(counted["macs_nonzero"], 1))
    epochs = min(wanted, recipe.length)
    if epochs < wanted:
        context.hooks.note(f"{epochs} epochs, which is the most; {wanted} would take the dense network's multiply-adds")
    return _from_initialisation(context, replace(recipe, epochs=epochs), "scratch init")


def _from_initialisation(context: Context, recipe: TrainRecipe, stream: str) -> Checkpoint:
    mask, model = context.start.mask, context.new_model(stream)
    load_states(model, masked(states(model), mask))
    return context.trained(model, mask, recipe)
