"""Training and evaluation of a masked network."""

from pruning.training.distillation import Distillation
from pruning.training.evaluation import evaluate, measure
from pruning.training.loop import Loss, ResumeState, StateError, TrainingHooks, fit
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
