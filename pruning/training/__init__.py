"""Training and evaluation of a masked network."""

from pruning.training.distillation import Distillation
from pruning.training.evaluation import evaluate, measure
from pruning.training.hooks import ResumeState, StateError, TrainingHooks
from pruning.training.loop import Loss, fit
from pruning.training.optimizers import OPTIMIZERS
from pruning.training.recipe import TrainRecipe
from pruning.training.schedules import SCHEDULES, learning_rate

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Distillation",
    "Loss",
    "ResumeState",
    "StateError",
    "TrainRecipe",
    "TrainingHooks",
    "evaluate",
    "fit",
    "learning_rate",
    "measure",
]
