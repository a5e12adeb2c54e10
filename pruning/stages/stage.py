"""The stages, by name: all that the rest of the program knows of them.

A new stage is a function (context, recipe) -> Checkpoint in a file of its own, entered in STAGES, a result in
`pipeline.results` that places it in a chain, and a YAML in conf/stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pruning import archs
from pruning.checkpoints import Checkpoint
from pruning.code import foreign_code
from pruning.data import DATASETS
from pruning.settings import Settings
from pruning.settings.settings import own_fields
from pruning.stages.context import Context
from pruning.stages.distill import DistillRecipe, distill
from pruning.stages.finetune import finetune
from pruning.stages.init import InitRecipe, at_init, init
from pruning.stages.prune import PruneRecipe, prune
from pruning.stages.retrain import RewindRecipe, ScratchBRecipe, lr_rewind, rewind, scratch_b, scratch_e
from pruning.stages.sparse_training import GradualRecipe, SparseRecipe, gradual, rigl, set_
from pruning.stages.train import train
from pruning.training import TrainRecipe

R = TypeVar("R", bound=Settings)


@dataclass(frozen=True)
class Stage(Generic[R]):
    """`run` makes a checkpoint from a context and a recipe of the kind `recipe`."""

    run: Callable[[Context, R], Checkpoint]
    recipe: type[R]
    prunes: bool = False  # it chooses what goes, which starts a new level

    @property
    def trains(self) -> bool:
        """Whether its recipe is one of a training, with epochs."""
        return issubclass(self.recipe, TrainRecipe)


STAGES: dict[str, Stage[Any]] = {  # in the order of display
    "init": Stage(init, InitRecipe),
    "train": Stage(train, TrainRecipe),
    "prune": Stage(prune, PruneRecipe, prunes=True),
    "finetune": Stage(finetune, TrainRecipe),
    "lr_rewind": Stage(lr_rewind, TrainRecipe),
    "rewind": Stage(rewind, RewindRecipe),
    "scratch_e": Stage(scratch_e, TrainRecipe),
    "scratch_b": Stage(scratch_b, ScratchBRecipe),
    "distill": Stage(distill, DistillRecipe),
    "at_init": Stage(at_init, TrainRecipe),
    "gradual": Stage(gradual, GradualRecipe, prunes=True),
    "rigl": Stage(rigl, SparseRecipe),
    "set": Stage(set_, SparseRecipe),
}


def code_of(stage: str, recipe: Settings, dataset: str, arch: archs.Arch) -> dict[str, str]:
    """Return which foreign code decides what such a step makes: module -> version or hash of its source."""
    chosen = [functions[getattr(recipe, axis)] for axis, functions in recipe.axes().items()]
    return foreign_code([STAGES[stage].run, *chosen, DATASETS[dataset].load]) | archs.code_of(arch)


def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what chooses a function when the network is pruned, also where that is neutral: `criterion`, `scope`."""
    return {
        f.name: settings.get(f"{name}.{f.name}", f.default)
        for name, stage in STAGES.items()
        if stage.prunes and any(key.startswith(f"{name}.") for key in settings)
        for f in own_fields(stage.recipe)
        if f.name in stage.recipe.axes()
    }
