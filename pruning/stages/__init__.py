"""The stages: each takes a frozen context and its recipe, and returns a checkpoint. Nothing else comes back."""

from pruning.stages.context import Context, Inputs, fed_as
from pruning.stages.distill import DistillRecipe
from pruning.stages.prune import PruneRecipe, Selection
from pruning.stages.retrain import RewindRecipe
from pruning.stages.stage import STAGES, Stage, chosen, code_of

__all__ = [
    "STAGES",
    "Context",
    "DistillRecipe",
    "Inputs",
    "PruneRecipe",
    "RewindRecipe",
    "Selection",
    "Stage",
    "chosen",
    "code_of",
    "fed_as",
]
