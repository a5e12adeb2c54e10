"""What a dataset is: frozen values that the rest of the package makes and reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Progress = Callable[[str, int, int], None]
"""Called with (label, done, total) while something slow happens."""

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, 3) and their labels int64 (N,), on one device.

    Channels last, so that a batch comes out in the memory format convolutions like without a copy.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))

    def hold_out(self, counts: Sequence[int], stream: torch.Generator) -> tuple["Split", "Split"]:
        """Return (rest, held): of class c, `counts[c]` images drawn from `stream` are held; order is kept."""
        held = torch.zeros(len(self), dtype=torch.bool)
        for label, count in enumerate(counts):
            members = (self.labels == label).nonzero().squeeze(1)
            held[members[torch.randperm(len(members), generator=stream)[:count]]] = True
        return Split(self.images[~held], self.labels[~held]), Split(self.images[held], self.labels[held])


@dataclass(frozen=True)
class Data:
    """A dataset ready to train on; `mean` and `std` are of the training pixels scaled to 0..1."""

    train: Split
    val: Split | None
    test: Split
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    pad: int = 0  # random-crop padding in pixels; 0: no crop
    flip: bool = False  # random horizontal flip


@dataclass(frozen=True)
class Info:
    """What is known before any pixel is decoded; `fingerprint` is None where the name fixes the content.

    What is given of the rest is checked against the other settings before any work.
    """

    num_classes: int
    fingerprint: str | None
    size: tuple[int, int] | None = None  # height and width of every image
    per_class: tuple[int, ...] | None = None  # training images, those that are held out included
