"""What the optimizer is told before each step: the learning rate, and the momentum where it is cycled."""

from typing import Any

import torch
from torch.optim import Optimizer

from pruning.training.optimizers import reads_rate_from_device, set_momentum
from pruning.training.recipe import TrainRecipe
from pruning.training.schedules import cycled_momentum, learning_rate, progress_at


class Rates:
    """Of a training by `recipe`, `steps` to an epoch, epochs counted from its first one."""

    def __init__(self, recipe: TrainRecipe, optimizer: Optimizer, steps: int, device: torch.device) -> None:
        self.recipe, self.optimizer, self.steps = recipe, optimizer, steps
        self.shape: dict[str, Any] = {"schedule": recipe.schedule, "warmup": recipe.warmup, "start": recipe.start}
        self.shape |= recipe.arguments("schedule")
        self.on_device = torch.zeros((), device=device) if reads_rate_from_device(optimizer) else None

    def progress(self, step: int) -> float:
        """Return where the schedule is, in [0, 1], at that step of the training."""
        return progress_at(step, self.recipe.epochs * self.steps, self.recipe.schedule, self.recipe.warmup)

    def rate(self, step: int) -> float:
        """Return the learning rate of that step of the training."""
        return learning_rate(self.progress(step), self.recipe.lr, **self.shape)

    def put(self, step: int) -> None:
        """Tell the optimizer those of that step."""
        rate = self.rate(step)
        if self.on_device is not None:
            self.on_device.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate if self.on_device is None else self.on_device
            if self.recipe.cycle:
                high, low = self.recipe.cycle
                set_momentum(group, cycled_momentum(self.progress(step), high, low, self.recipe.warmup))

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's, without a rate on a device: `put` tells it again."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr
        return self.optimizer.state_dict()
