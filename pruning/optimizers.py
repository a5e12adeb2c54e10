"""Torch's optimizers, without the seconds that their first use costs.

Every optimizer method is wrapped to keep torch.compile out, and the wrapper imports the whole compiler for that: five
seconds of processor time in each process, more than some steps take. Nothing is compiled here, so the methods are
called as they are.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pruning.recipes import TrainRecipe


def optimizer_of(recipe: TrainRecipe, model: nn.Module) -> Optimizer:
    """Return a fresh optimizer (so no momentum is carried into finetuning), with multi-tensor updates."""
    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        plain = inspect.unwrap(method)
        plain.__dynamo_disable = plain  # where torch keeps what it would make of it
    common: dict[str, Any] = dict(lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), betas=(recipe.betas[0], recipe.betas[1]), **common)


def step_of(optimizer: Optimizer) -> Callable[[], None]:
    """Return the optimizer's step, as the class has it below its wrappers."""
    plain = inspect.unwrap(type(optimizer).step)

    @torch.no_grad()
    def step() -> None:
        plain(optimizer)

    return step
