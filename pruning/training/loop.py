"""The one training loop.

Images stay on the device as uint8 and are augmented a batch at a time; activations are channels_last, in bf16 where
the hardware has it; pruned weights are zeroed after every optimizer step; inside an epoch the host never waits for
the device.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning import masks, rng
from pruning.data import Data, steps_per_epoch, train_batches
from pruning.errors import Interrupted, UserError
from pruning.training.convolutions import Gradients
from pruning.training.evaluation import autocast, exact, measure
from pruning.training.graphs import PAYS, Graphs, StepFunction
from pruning.training.hooks import ResumeState, StateError, TrainingHooks
from pruning.training.optimizers import forget, optimizer_for, step_of
from pruning.training.rates import Rates
from pruning.training.recipe import TrainRecipe

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(images N x 3 x H x W, the logits N x C that the network gives them, labels N) -> what to minimise, a scalar."""


def fit(
    model: nn.Module,
    data: Data,
    recipe: TrainRecipe,
    *,
    mask: masks.Mask | None = None,
    seed: int = 0,
    purpose: str = "training",
    precision: str = "fp32",
    hooks: TrainingHooks | None = None,
    loss: Loss | None = None,
    first_epoch: int = 0,
    updates: masks.Updates | None = None,
    cuda_graph: bool | None = None,
) -> masks.Mask:
    """Train `model` in place on `data.train`, on the device of the data; return the mask that it ends with.

    It takes `recipe.epochs`, or what is left of them after `hooks.state()`; those before `first_epoch` are left out, as
    if they had been made elsewhere: rates and data are those of the epochs that follow. The weights that `mask` prunes
    are exactly zero after every step. `seed` and `purpose` (a name, like that of a stage) decide order, augmentation
    and, through torch's own random state, what layers such as dropout draw; `precision` is "fp32", "bf16" or "tf32".
    `loss`, the mean cross entropy with the recipe's label smoothing unless given, is called inside that autocast.
    The mask stays what it is unless `updates` change it; a step that changes it does not move the weights that stay.
    With `cuda_graph` the steps on a GPU are replays of a recorded one (None: where that pays), to the same bits; masks
    that change, a cycled momentum and optimizers that read the rate on the host are launched step by step even so.
    Ends with Interrupted, state saved, when the hooks ask for it; with UserError when the loss is no longer finite,
    with StateError if `hooks.state()` is of another training.
    """
    hooks = hooks or TrainingHooks()
    loop = TrainingLoop(model, mask or {}, data, recipe, (seed, purpose), precision, hooks, loss, first_epoch, updates)
    loop.record(cuda_graph)
    while loop.epoch < loop.epochs:
        loop.run_epoch()
    hooks.settle()
    return {name: keep.cpu() for name, keep in loop.mask.items()}


class TrainingLoop:
    """The state of one `fit`: all that changes from step to step, and nothing else has to be saved to continue."""

    def __init__(
        self,
        model: nn.Module,
        mask: masks.Mask,
        data: Data,
        recipe: TrainRecipe,
        stream: tuple[int, str],
        precision: str,
        hooks: TrainingHooks,
        loss: Loss | None = None,
        first_epoch: int = 0,
        updates: masks.Updates | None = None,
    ) -> None:
        device = data.device
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types know no formats
        self.data, self.recipe, self.stream, self.precision, self.hooks = data, recipe, stream, precision, hooks
        self.loss, self.updates = loss or self.cross_entropy, updates
        self.optimizer = optimizer_for(recipe.optimizer, model, recipe.of_optimizer())
        self.update = step_of(self.optimizer)
        self.gradients = Gradients() if (device.type, precision) == ("cpu", "bf16") else nullcontext()
        self.on_device: StepFunction = self.compute
        self.steps = steps_per_epoch(len(data.train), recipe.batch_size)
        self.first, self.epochs = first_epoch, recipe.epochs - first_epoch
        self.epoch, self.batch = 0, 0  # the next step to make, counted from the first epoch
        self.seconds = 0.0  # spent on this epoch so far
        self.sums = torch.zeros(2, dtype=exact(device), device=device)  # of this epoch: losses, right answers
        self.rates = Rates(recipe, self.optimizer, self.steps, device)
        self.put_on(mask)
        hooks.length(self.epochs)
        if state := hooks.state():
            self.restore(state)
            if self.epoch and not self.batch:
                hooks.after(self.epoch, self.model)

    def record(self, wanted: bool | None) -> None:
        """Make the steps by replay of a recorded one if `wanted`; None: if there are enough for that to pay."""
        able = self.rates.on_device is not None and not self.updates and not self.recipe.cycle
        left = (self.epochs - self.epoch) * self.steps
        if able and (wanted or (wanted is None and left >= PAYS)):
            self.on_device = Graphs(self.compute, self.data.device, self.hooks.note, must=bool(wanted))

    def put_on(self, mask: masks.Mask) -> None:
        """Train on under `mask`, from wherever it lies; what it prunes is zero at once."""
        self.mask = {name: keep.to(self.sums.device) for name, keep in mask.items()}
        self.enforce = masks.enforcer(self.mask, self.model)
        self.enforce()

    def restore(self, state: ResumeState) -> None:
        """Go on from `state`; StateError if it is not of this training."""
        try:
            self.take_over(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise StateError(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}") from None

    def take_over(self, state: ResumeState) -> None:
        self.model.load_state_dict(state["model"])
        if self.updates:
            self.put_on(state["mask"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.copy_(state["sums"])
        self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], float(state["seconds"])
        if self.epoch not in range(self.epochs + 1) or self.batch not in range(self.steps):
            raise ValueError(f"there is no batch {self.batch} of epoch {self.epoch}")

    def save(self) -> None:
        place: ResumeState = {"mask": self.mask} if self.updates else {}
        place |= {"epoch": self.epoch, "batch": self.batch, "seconds": self.seconds, "sums": self.sums.cpu()}
        self.hooks.save(place | {"model": self.model.state_dict(), "optimizer": self.rates.state_dict()})

    def run_epoch(self) -> None:
        """Make the steps that are left of this epoch, check and report it, save."""
        self.model.train()
        began, earlier = time.monotonic(), self.seconds
        seed, purpose = self.stream
        size = self.recipe.batch_size
        at = self.first + self.epoch
        batches = train_batches(self.data, batch_size=size, seed=seed, purpose=purpose, epoch=at, first=self.batch)
        for images, labels in batches:
            rng.seed_torch(images.device, rng.stream_seed(seed, f"{purpose} layers", at, self.batch))
            self.step(images, labels)
            self.batch += 1
            if self.hooks.stopping():
                break
        losses, right = self.sums.tolist()  # the only time that the host waits for the device
        self.seconds = earlier + time.monotonic() - began
        masks.check(self.mask, dict(self.model.named_parameters()))
        self.check_finite("loss", losses)
        if self.batch == self.steps:
            self.report(losses / len(self.data.train), 100 * right / len(self.data.train))
            self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
            self.sums.zero_()
            self.hooks.after(self.epoch, self.model)
        self.save()
        if self.hooks.stopping():
            self.hooks.settle()
            raise Interrupted

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Make one optimizer step; pruned weights are zero after it."""
        self.rates.put(self.step_of_training(self.batch))
        self.on_device(images, labels)
        self.hooks.batch(len(labels))

    def compute(self, images: Tensor, labels: Tensor) -> None:
        """Do what the device does in a step."""
        with autocast(images.device, self.precision), self.gradients:
            logits = self.model(images)
            loss = self.loss(images, logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not self.updates or not self.change_mask(self.updates):
            self.update()
            self.enforce()
        right = (logits.detach().argmax(1) == labels).sum()
        kind = self.sums.dtype
        self.sums += torch.stack([loss.detach().to(kind) * len(labels), right.to(kind)])

    def cross_entropy(self, _images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)

    def change_mask(self, updates: masks.Updates) -> bool:
        """Put on the mask that is due after this step's gradients; return whether there is another one."""
        step = self.step_of_training(self.batch)
        if (mask := updates(step, self.recipe.epochs * self.steps, self.model, self.mask)) is None:
            return False
        forget(self.optimizer, self.model, self.mask)
        self.put_on(mask)
        return True

    def step_of_training(self, batch: int) -> int:
        """Return the number of the step with that batch of this epoch, counted from the recipe's first epoch."""
        return (self.first + self.epoch) * self.steps + batch

    def report(self, train_loss: float, train_top1: float) -> None:
        rate = self.rates.rate(self.step_of_training(self.batch - 1))  # of the last step
        row = {"epoch": self.epoch + 1, "lr": rate}
        row |= {"train_loss": train_loss, "train_top1": train_top1}
        row |= {"images_per_second": len(self.data.train) / self.seconds, "seconds": self.seconds}
        measured = measure(self.model, self.data, self.precision)
        for name, value in measured.items():
            self.check_finite(name, value)
        self.hooks.row(row | measured)

    def check_finite(self, name: str, value: float) -> None:
        """Raise UserError if a loss is not finite: the last update may have been the one that was too large."""
        if not math.isfinite(value):
            lr, epoch = self.recipe.lr, self.epoch + 1
            text = f"lr={lr:g} is too high: the training diverged, the {name} is {value} in epoch {epoch}"
            raise UserError(text, "lr")
