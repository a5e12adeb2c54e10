"""Masks that change during the only training there is: no dense network is needed."""

from dataclasses import dataclass, replace

from pruning.checkpoints import Checkpoint
from pruning.errors import UserError
from pruning.masks import DropAndGrow, Gradual, at_random, by_gradient, counts, prunable
from pruning.settings import Axes, setting
from pruning.stages.context import Context
from pruning.stages.prune import Selection
from pruning.training import TrainRecipe


@dataclass(frozen=True, kw_only=True)
class GradualRecipe(TrainRecipe, Selection):
    """How to train, and what goes meanwhile, when; see `masks.Gradual`."""

    begin: float = setting(0.0, least=0, most=1)  # fractions of the training
    until: float = setting(0.75, least=0, most=1)
    interval: int = setting(100, least=1)  # optimizer steps

    @classmethod
    def axes(cls) -> Axes:
        return {**Selection.axes(), **TrainRecipe.axes()}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begin > self.until:
            raise UserError(f"begin must be at most until={self.until:g}, got {self.begin:g}", "begin")


def gradual(context: Context, recipe: GradualRecipe) -> Checkpoint:
    """Prune while training, along a cubic curve to the exact sparsity (Zhu and Gupta 2017, arXiv 1710.01878).

    UserError without an epoch to do it in.
    """
    if not recipe.epochs:
        raise UserError("epochs must be >= 1 to prune during training, got 0", "epochs")
    parent = context.start
    model = parent.network()
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    size, kept = counts(parent.mask, prunable(model, recipe.layers, recipe.include, recipe.exclude), sizes)
    updates = Gradual(
        prune=lambda trained, sparsity, mask: recipe.from_model(trained, sparsity, mask, context),
        sparsity=recipe.sparsity,
        initial=1 - kept / size,
        begin=recipe.begin,
        until=recipe.until,
        interval=recipe.interval,
    )
    return context.trained(model, parent.mask, recipe, updates=updates)


@dataclass(frozen=True, kw_only=True)
class SparseRecipe(TrainRecipe):
    """How to train, and how much of the mask moves, when; see `masks.DropAndGrow`."""

    fraction: float = setting(0.3, least=0, most=1)  # of the kept weights, at the first update
    until: float = setting(0.75, least=0, most=1)  # of the training
    interval: int = setting(100, least=1)  # optimizer steps


def rigl(context: Context, recipe: SparseRecipe) -> Checkpoint:
    """Train sparsely: the smallest weights go, those with the largest gradients come (Evci et al. 2020, 1911.11134)."""
    return _moving(context, recipe, DropAndGrow(growth=by_gradient, seed=context.seed))


def set_(context: Context, recipe: SparseRecipe) -> Checkpoint:
    """Train sparsely: the smallest weights go, others come at random (Mocanu et al. 2018, arXiv 1707.04780)."""
    return _moving(context, recipe, DropAndGrow(growth=at_random, seed=context.seed))


def _moving(context: Context, recipe: SparseRecipe, updates: DropAndGrow) -> Checkpoint:
    parent = context.start
    updates = replace(updates, fraction=recipe.fraction, until=recipe.until, interval=recipe.interval)
    return context.trained(parent.network(), parent.mask, recipe, updates=updates)
