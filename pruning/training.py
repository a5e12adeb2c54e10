"""The one training loop, and evaluation.

Images stay on the device as uint8 and are augmented a batch at a time; activations are channels_last, in bf16 where
the hardware has it; pruned weights are zeroed after every optimizer step; inside an epoch the host never waits for
the device.
"""

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning import masks
from pruning.data import Data, Split, eval_batches, steps_per_epoch, train_batches
from pruning.errors import UserError
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


def optimizer_of(recipe: TrainRecipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return a fresh optimizer (so no momentum is carried into finetuning), with multi-tensor updates."""
    common: dict[str, Any] = dict(lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), betas=(recipe.betas[0], recipe.betas[1]), **common)


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
    device = data.train.images.device
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer, enforce = optimizer_of(recipe, model), masks.enforcer(mask, model)
    enforce()
    steps = steps_per_epoch(len(data.train), recipe.batch_size)
    state = journal.state() or {"epoch": 0, "batch": 0, "seconds": 0.0}
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, right answers
    if "model" in state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        sums.copy_(state["sums"])

    def save(epoch: int, batch: int) -> None:
        now = {"epoch": epoch, "batch": batch, "seconds": spent + time.monotonic() - began, "sums": sums.cpu()}
        journal.save(now | {"model": model.state_dict(), "optimizer": optimizer.state_dict()})

    for epoch in range(state["epoch"], recipe.epochs):
        began, spent = time.monotonic(), state["seconds"]
        first, state = state["batch"], {"batch": 0, "seconds": 0.0}
        model.train()
        batches = train_batches(data, batch_size=recipe.batch_size, seed=seed, epoch=epoch, first=first)
        for batch, (images, labels) in enumerate(batches, start=first):
            rate = rate_at(recipe, (epoch * steps + batch) / (recipe.epochs * steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            sums += learn(model, images, labels, recipe.label_smoothing, precision, optimizer)
            enforce()
            journal.batch(len(labels))
            if journal.stopping() and batch + 1 < steps:
                save(epoch, batch + 1)
                raise Interrupted
        masks.check(mask, dict(model.named_parameters()))
        loss, right = (sums / len(data.train)).tolist()
        if not torch.isfinite(sums[0]):
            raise UserError(
                f"the loss is {loss} after epoch {epoch + 1}: the training diverged; lower {recipe.NODE}.lr"
            )
        row = {"epoch": epoch + 1, "lr": rate, "train_loss": loss, "train_top1": 100 * right}
        seconds = spent + time.monotonic() - began
        row |= {"images_per_second": len(data.train) / seconds, "seconds": seconds}
        journal.row(row | measure(model, data, precision))
        sums.zero_()
        spent, began = 0.0, time.monotonic()
        save(epoch + 1, 0)
        if journal.stopping():
            raise Interrupted


def rate_at(recipe: TrainRecipe, progress: float) -> float:
    return learning_rate(
        progress,
        recipe.lr,
        schedule=recipe.schedule,
        warmup=recipe.warmup,
        start=recipe.start,
        end=recipe.end,
        milestones=recipe.milestones,
        decay=recipe.decay,
    )


def learn(
    model: nn.Module, images: Tensor, labels: Tensor, smoothing: float, precision: str, optimizer: torch.optim.Optimizer
) -> Tensor:
    """Make one optimizer step; return (sum of losses, right answers) of the batch as a tensor on the device."""
    with autocast(images.device, precision):
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    right = (logits.detach().argmax(1) == labels).sum()
    return torch.stack([loss.detach().double() * len(labels), right.double()])


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
