"""One door for every dataset."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pruning import rng
from pruning.data import cifar, digits, folder
from pruning.data.values import Data, Info, Progress, Split
from pruning.errors import UserError, one_of

NAMES = ("digits", "cifar10", "cifar100", "image_folder")


def info(name: str, *, root: str | None, cache: Path, progress: Progress | None = None) -> Info:
    """Return what a run's identity needs; an image_folder is read once for its fingerprint, then remembered."""
    one_of("dataset", name, NAMES)
    if name == "image_folder":
        listing = folder.scan(root)
        return Info(len(listing.classes), folder.fingerprint(listing, cache, progress))
    return Info(cifar.SOURCES[name].num_classes if name in cifar.SOURCES else len(digits.CLASSES), None)


def load(
    name: str,
    *,
    root: str | None,
    cache: Path,
    val_fraction: float = 0.0,
    pad: int = 4,
    flip: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Data:
    """Return the dataset on `device`.

    `val_fraction` in [0, 1) holds out exactly round(val_fraction * n) of the n training images of each class,
    the same ones for every seed; 0 leaves `val` None. `root` is the folder of an image_folder; `cache` is where
    downloads and decoded images live. A UserError names what cannot be had or is out of range.
    """
    one_of("dataset", name, NAMES)
    _check(val_fraction, pad, flip)
    if name == "digits":
        data = digits.load()
    elif name == "image_folder":
        data = folder.load(root, cache, progress)
    else:
        data = cifar.load(name, cache, progress)
    train, val = _validation(data, val_fraction)
    return replace(
        data,
        train=train.to(device),
        val=None if val is None else val.to(device),
        test=data.test.to(device),
        pad=pad,
        flip=flip,
    )


def _check(val_fraction: Any, pad: Any, flip: Any) -> None:
    number = isinstance(val_fraction, int | float) and not isinstance(val_fraction, bool)
    if not number or not 0 <= val_fraction < 1:
        guess = f"; did you mean {val_fraction / 100:g}?" if number and 1 < val_fraction < 100 else ""
        raise UserError(f"dataset.val_fraction must be in [0, 1), got {val_fraction!r}{guess}")
    if not isinstance(pad, int) or isinstance(pad, bool) or pad < 0:
        raise UserError(f"dataset.pad must be a whole number of pixels, 0 or more, got {pad!r}")
    if not isinstance(flip, bool):
        raise UserError(f"dataset.flip must be true or false, got {flip!r}")


def _validation(data: Data, fraction: float) -> tuple[Split, Split | None]:
    """Split the training images into (train, val), class by class."""
    if fraction == 0:
        return data.train, None
    sizes = torch.bincount(data.train.labels, minlength=len(data.classes)).tolist()
    counts = [round(fraction * size) for size in sizes]
    for name, size, count in zip(data.classes, sizes, counts, strict=True):
        if count == size:
            raise UserError(
                f"dataset.val_fraction={fraction} holds out all {size} training images of class {name!r}; ask for less"
            )
    if not any(counts):
        raise UserError(f"dataset.val_fraction={fraction} holds out no image at all; ask for more, or 0 for none")
    return data.train.hold_out(counts, rng.generator(0, "val split"))
