"""Finetune a pruned network with the networks that it came from as its teachers."""

from dataclasses import dataclass

import torch
from torch import nn

from pruning.checkpoints import Checkpoint
from pruning.settings import setting
from pruning.stages.context import Context
from pruning.training import Distillation, TrainRecipe

TEACHERS = ("all", "dense", "levels")


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(TrainRecipe):
    """How to train, and how much to listen to whom; see `training.Distillation`."""

    temperature: float = setting(1.0, above=0)
    weight: float = setting(0.0, least=0, most=1)  # of the teachers; 0 is finetuning
    teachers: str = setting("all", among=TEACHERS)

    def idle(self) -> set[str]:
        return super().idle() | (set() if self.weight else {"temperature", "teachers"})


def distill(context: Context, recipe: DistillRecipe) -> Checkpoint:
    """Train the parent's kept weights as in finetuning, towards the labels and what `context.inputs` say on average.

    (Le and Hua 2020, arXiv 2006.11487.) All inputs are teachers; they are read once and stay on the device.
    Without a weight none is read, and what comes out is what finetuning makes. ValueError if there is none to read.
    """
    parent, loss = context.start, None
    if recipe.weight:
        if not context.inputs:
            raise ValueError("distilling needs at least one teacher, and no input was given")
        teachers = [_teacher(context, checkpoint) for checkpoint in context.inputs.values()]
        loss = Distillation(teachers, recipe.temperature, recipe.weight, recipe.label_smoothing)
    return context.trained(parent.network(), parent.mask, recipe, loss)


def _teacher(context: Context, checkpoint: Checkpoint) -> nn.Module:
    model = checkpoint.network().requires_grad_(False)
    return model.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types know no formats
