"""What a stage is given: frozen values, and the network that it starts from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from pruning import archs, rng
from pruning.checkpoints import Checkpoint, snapshot
from pruning.data import Data
from pruning.masks import Mask, Updates
from pruning.training import Loss, TrainingHooks, TrainRecipe, fit


def fed_as(data: Data, checkpoint: Checkpoint | None) -> Data:
    """Return `data` with the normalisation that the checkpoint was trained with, which may be another than its own."""
    if checkpoint is None or not (constants := checkpoint.normalisation):
        return data
    mean, std = ((r, g, b) for r, g, b in (constants["mean"], constants["std"]))
    return replace(data, mean=mean, std=std)


class Inputs(Mapping[str, Checkpoint]):
    """Further checkpoints by role; each is read from the disk when it is asked for, and not kept."""

    def __init__(self, readers: Mapping[str, Callable[[], Checkpoint]] | None = None) -> None:
        self._readers = readers or {}

    def __getitem__(self, role: str) -> Checkpoint:
        return self._readers[role]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


@dataclass(frozen=True)
class Context:
    """What every stage is given. `parent` is where it starts from, None for a dense network from nothing.

    `data` is normalised as `parent` has been trained.
    """

    arch: archs.Arch
    num_classes: int
    data: Data
    seed: int
    precision: str  # "fp32", "bf16" or "tf32"
    parent: Checkpoint | None = None
    inputs: Mapping[str, Checkpoint] = field(default_factory=Inputs)
    hooks: TrainingHooks = field(default_factory=TrainingHooks)
    purpose: str = "training"  # the name of its random streams
    cuda_graph: bool | None = None  # as `fit` takes it

    @property
    def start(self) -> Checkpoint:
        """The parent, for stages that need one; ValueError if there is none."""
        if self.parent is None:
            raise ValueError("this stage starts from a parent, and none was given")
        return self.parent

    @property
    def device(self) -> torch.device:
        return self.data.device

    def trained(
        self,
        model: nn.Module,
        mask: Mask,
        recipe: TrainRecipe,
        loss: Loss | None = None,
        first_epoch: int = 0,
        updates: Updates | None = None,
    ) -> Checkpoint:
        """Train `model` on the data under the recipe, its pruned weights exactly zero, and return what it became.

        `loss`, `first_epoch` and `updates` (of the mask) as `fit` takes them.
        """
        mask = fit(
            model,
            self.data,
            recipe,
            mask=mask,
            seed=self.seed,
            purpose=self.purpose,
            precision=self.precision,
            hooks=self.hooks,
            loss=loss,
            first_epoch=first_epoch,
            updates=updates,
            cuda_graph=self.cuda_graph,
        )
        return self.checkpoint(model, mask)

    def new_model(self, stream: str = "init") -> nn.Module:
        """Return a network of the step's architecture, initialised from that stream of the seed."""
        return archs.fresh(self.arch, self.num_classes, rng.generator(self.seed, stream))

    def checkpoint(self, model: nn.Module, mask: Mask) -> Checkpoint:
        normalisation = {"mean": list(self.data.mean), "std": list(self.data.std)}
        return Checkpoint(snapshot(model), mask, self.arch, self.num_classes, normalisation)
