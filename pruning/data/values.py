"""What a dataset is: frozen values that the rest of the package makes and reads."""

import ctypes
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Progress = Callable[[str, int, int], None]
"""Called with (label, done, total) while something slow happens."""

Channels = tuple[float, float, float]


T = TypeVar("T")
R = TypeVar("R")
MADV_RANDOM = 1  # on Linux and macOS
AHEAD = 3  # batches that are read while others are computed on


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, 3) and their labels int64 (N,), on one device.

    Channels last, so that a batch comes out in the memory format convolutions like without a copy. With `rows` the
    (int64, N, on the CPU) images stay where they are, in the memory of the host or a file mapped there; label i is then
    of `images[rows[i]]`, and only labels and batches are on the device.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where its batches are."""
        return self.labels.device

    def to(self, device: torch.device | str) -> "Split":
        images = self.images.to(device) if self.rows is None else self.images
        return Split(images, self.labels.to(device), self.rows)

    def in_place(self) -> "Split":
        """Return the same, of which `to` and `hold_out` copy no image."""
        read_singly(self.images)
        return replace(self, rows=torch.arange(len(self)))

    def batches(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels at each of these positions (int64, on the CPU); a thread reads ahead if they stay."""
        whole = torch.cat([*parts]) if parts else torch.empty(0, dtype=torch.int64)
        on_device = whole.to(self.device).split([len(part) for part in parts])  # once, not batch by batch
        images: Iterable[Tensor] = (self.images.index_select(0, index) for index in on_device)
        for pixels, index in zip(images if self.rows is None else ahead(self.read, parts), on_device, strict=True):
            yield pixels, self.labels[index]

    def read(self, part: Tensor) -> Tensor:
        """Return the images at these positions, on the device."""
        assert self.rows is not None
        # NumPy copies rows without the threads of torch, which are busy with the batch before
        taken = torch.from_numpy(np.take(self.images.numpy(), self.rows[part].numpy(), axis=0))
        if self.device.type == "cuda":
            taken = taken.pin_memory()
        return taken.to(self.device, non_blocking=True)

    def hold_out(self, counts: Sequence[int], stream: torch.Generator) -> tuple["Split", "Split"]:
        """Return (rest, held): of class c, `counts[c]` images drawn from `stream` are held; order is kept."""
        held = torch.zeros(len(self), dtype=torch.bool)
        for label, count in enumerate(counts):
            members = (self.labels == label).nonzero().squeeze(1)
            held[members[torch.randperm(len(members), generator=stream)[:count]]] = True
        return self.where(~held), self.where(held)

    def where(self, wanted: Tensor) -> "Split":
        """Return those for which `wanted` (bool, N) is true."""
        if self.rows is None:
            return Split(self.images[wanted], self.labels[wanted])
        return Split(self.images, self.labels[wanted], self.rows[wanted])


def read_singly(images: Tensor) -> None:
    """Have the kernel read of a mapped file what is asked for only.

    It would read the surroundings too, which are gone before their turn comes: measured 2.6 MB for an image of 12 kB.
    """
    if os.name == "posix":
        start = images.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        size = images.data_ptr() + images.nbytes - start
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_RANDOM)


def ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield work(item) for each of `items` in order; a thread does it for the next ones meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(thread.submit(work, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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

    @property
    def device(self) -> torch.device:
        """Where its batches are."""
        return self.train.device


@dataclass(frozen=True)
class Info:
    """What is known before any pixel is decoded; `fingerprint` is None where the name fixes the content.

    What is given of the rest is checked against the other settings before any work.
    """

    num_classes: int
    fingerprint: str | None
    size: tuple[int, int] | None = None  # height and width of every image
    per_class: tuple[int, ...] | None = None  # training images, those that are held out included
