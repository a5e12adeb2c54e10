"""Pruning before training: what needs no dense training at all."""

from dataclasses import dataclass

from pruning.checkpoints import Checkpoint
from pruning.settings import Axes, Settings
from pruning.stages.context import Context
from pruning.training import TrainRecipe


@dataclass(frozen=True, kw_only=True)
class InitRecipe(Settings):
    """There is nothing to choose: architecture and seed say all."""

    @classmethod
    def axes(cls) -> Axes:
        return {}


def init(context: Context, _recipe: InitRecipe) -> Checkpoint:
    """Return the network that `train` would start from; train nothing."""
    return context.checkpoint(context.new_model(), {})


def at_init(context: Context, recipe: TrainRecipe) -> Checkpoint:
    """Train the kept weights of a network that was pruned at its initialisation, as the dense one would be trained.

    (Lee et al. 2019, arXiv 1810.02340; Wang et al. 2020, arXiv 2002.07376; Tanaka et al. 2020, arXiv 2006.05467; with
    random scores: dense-to-sparse without anything learnt, Liu et al. 2022, arXiv 2202.02643.)
    """
    parent = context.start
    return context.trained(parent.network(), parent.mask, recipe)
