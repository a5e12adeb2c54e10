"""The one training loop, and evaluation.

Images stay on the device as uint8 and are augmented a batch at a time; activations are channels_last, in bf16 where
the hardware has it; pruned weights are zeroed after every optimizer step; inside an epoch the host never waits for
the device.
"""

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning import masks
from pruning.data import Data, Split, eval_batches, steps_per_epoch, train_batches
from pruning.errors import UserError
from pruning.optimizers import optimizer_of, step_of
from pruning.recipes import TrainRecipe
from pruning.schedules import learning_rate

State = dict[str, Any]


class Interrupted(Exception):
    """Asked to stop; everything needed to continue has been saved."""


class Journal:
    """What a step reports and asks while it runs; this one keeps nothing and never stops."""

    def state(self) -> State | None:
        """Return what was saved last, if this step was interrupted."""
        return None

    def save(self, state: State) -> None:
        """Keep `state` instead of what was saved before."""

    def row(self, metrics: dict[str, float]) -> None:
        """Take the figures of one epoch."""

    def batch(self, images: int) -> None:
        """Take notice that one more batch has been given to the device."""

    def stopping(self) -> bool:
        """Return whether to stop at the next batch."""
        return False


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def fit(
    model: nn.Module,
    mask: masks.Mask,
    data: Data,
    recipe: TrainRecipe,
    *,
    seed: int,
    precision: str,
    journal: Journal,
) -> None:
    """Train `model` in place for `recipe.epochs`, or for what is left of them after `journal.state()`.

    The weights that `mask` prunes are exactly zero after every step. Ends with Interrupted, state saved, when the
    journal says so; with UserError when the loss is no longer finite.
    """
    fitting = Fitting(model, mask, data, recipe, seed, precision, journal)
    while fitting.epoch < recipe.epochs:
        fitting.run_epoch()


class Fitting:
    """The state of one `fit`: all that changes from step to step, and nothing else has to be saved to continue."""

    def __init__(
        self,
        model: nn.Module,
        mask: masks.Mask,
        data: Data,
        recipe: TrainRecipe,
        seed: int,
        precision: str,
        journal: Journal,
    ) -> None:
        device = data.train.images.device
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mask, self.data, self.recipe = mask, data, recipe
        self.seed, self.precision, self.journal = seed, precision, journal
        self.optimizer = optimizer_of(recipe, model)
        self.update = step_of(self.optimizer)
        self.enforce = masks.enforcer(mask, model)
        self.steps = steps_per_epoch(len(data.train), recipe.batch_size)
        self.epoch, self.batch = 0, 0  # the next step to make
        self.seconds = 0.0  # spent on this epoch so far
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # of this epoch: losses, right answers
        self.enforce()
        if state := journal.state():
            self.restore(state)

    def restore(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.copy_(state["sums"])
        self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]

    def save(self) -> None:
        place = {"epoch": self.epoch, "batch": self.batch, "seconds": self.seconds, "sums": self.sums.cpu()}
        self.journal.save(place | {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def run_epoch(self) -> None:
        """Make the steps that are left of this epoch, check and report it, save."""
        self.model.train()
        began, earlier = time.monotonic(), self.seconds
        batches = train_batches(
            self.data, batch_size=self.recipe.batch_size, seed=self.seed, epoch=self.epoch, first=self.batch
        )
        for images, labels in batches:
            self.step(images, labels)
            self.batch += 1
            if self.journal.stopping():
                break
        losses, right = self.sums.tolist()  # the only time that the host waits for the device
        self.seconds = earlier + time.monotonic() - began
        masks.check(self.mask, dict(self.model.named_parameters()))
        if not math.isfinite(losses):
            where = f"epoch {self.epoch + 1}"
            raise UserError(f"the loss is {losses} in {where}: the training diverged; lower {self.recipe.NODE}.lr")
        if self.batch == self.steps:
            self.report(losses / len(self.data.train), 100 * right / len(self.data.train))
            self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
            self.sums.zero_()
        self.save()
        if self.journal.stopping():
            raise Interrupted

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Make one optimizer step; pruned weights are zero after it."""
        rate = self.rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(images.device, self.precision):
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.update()
        self.enforce()
        right = (logits.detach().argmax(1) == labels).sum()
        self.sums += torch.stack([loss.detach().double() * len(labels), right.double()])
        self.journal.batch(len(labels))

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        progress = (self.epoch * self.steps + self.batch) / (self.recipe.epochs * self.steps)
        shape = ("schedule", "warmup", "start", "end", "milestones", "decay")
        return learning_rate(progress, self.recipe.lr, **{name: getattr(self.recipe, name) for name in shape})

    def report(self, train_loss: float, train_top1: float) -> None:
        row = {"epoch": self.epoch + 1, "lr": self.rate(), "train_loss": train_loss, "train_top1": train_top1}
        row |= {"images_per_second": len(self.data.train) / self.seconds, "seconds": self.seconds}
        self.journal.row(row | measure(self.model, self.data, self.precision))


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, split: Split, precision: str) -> dict[str, float]:
    """Return top1, top5 (percent) and loss (mean cross-entropy, nats) on `split`: summed, then divided once."""
    model.eval()
    device = split.images.device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for images, labels in eval_batches(data, split, batch_size=1000 if device.type == "cuda" else 100):
        with autocast(device, precision):
            logits = model(images).float()
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([top[:, 0].sum().double(), top.sum().double(), loss.double()])
    top1, top5, loss_sum = sums.tolist()
    return {"top1": 100 * top1 / len(split), "top5": 100 * top5 / len(split), "loss": loss_sum / len(split)}


def measure(model: nn.Module, data: Data, precision: str) -> dict[str, float]:
    """Return `test_top1 test_top5 test_loss`, and the same of `val` where a part is held out."""
    splits = {"test": data.test} | ({"val": data.val} if data.val else {})
    return {
        f"{name}_{figure}": value
        for name, split in splits.items()
        for figure, value in evaluate(model, data, split, precision).items()
    }
