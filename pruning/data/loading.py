"""One door for every dataset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from pruning import rng
from pruning.data import arrays, digits, folder, hub, published, tiny_imagenet
from pruning.data.room import fits
from pruning.data.values import Data, Info, Progress
from pruning.errors import UserError, check_choice
from pruning.settings import Axes, Settings, setting

CACHE = Path("data")


@dataclass(frozen=True)
class Dataset:
    """Both functions take (cache, progress) and, keyword-only, the dataset's own settings."""

    info: Callable[..., Info]
    load: Callable[..., Data]
    place: str = "root"  # the setting that says where it is, which decides nothing

    @property
    def key(self) -> str:
        """What that setting is called in a config and on the command line, after `dataset.`."""
        return "name" if self.place == "hub" else self.place


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(digits.info, digits.load),
    **{name: Dataset(partial(published.info, name), partial(published.load, name)) for name in published.SOURCES},
    "tiny_imagenet": Dataset(tiny_imagenet.info, tiny_imagenet.load),
    "image_folder": Dataset(folder.info, folder.load),
    "arrays": Dataset(arrays.info, arrays.load, "file"),
    "huggingface": Dataset(hub.info, hub.load, "hub"),
}


@dataclass(frozen=True, kw_only=True)
class DatasetSettings(Settings):
    """Which images, and how they are augmented; `name` is one of DATASETS.

    `val_fraction` holds out exactly round(val_fraction * n) of the n training images of each class, the same ones for
    every seed. `pad` is the padding of the random crop, in pixels; `flip` mirrors half of the images.
    """

    name: str
    root: str | None = None  # the directory of an image_folder
    file: str | None = None  # of arrays
    hub: str | None = None  # the name of a set of huggingface, which is `name` in the config, beside `loader`
    subset: str | None = None  # of a set of huggingface that has several
    image: str | None = None  # the column of its images
    label: str | None = None  # and of its classes
    size: int | None = setting(None, least=1)  # height and width that images of a folder or of huggingface get
    val_fraction: float = setting(0.0, least=0, below=1)
    pad: int = setting(0, least=0)
    flip: bool = False

    @classmethod
    def read(cls, node: Any, name: str) -> Self:
        if isinstance(node, Mapping) and "loader" in node:
            others = {key: value for key, value in node.items() if key != "loader"}
            node = others | {"name": node["loader"], "hub": node.get("name")}
        return super().read(node, name)

    @property
    def place(self) -> str | None:
        """Where it is."""
        return self.values()[DATASETS[self.name].place]

    @classmethod
    def at(cls, node: Mapping[str, Any], place: str | None) -> Self:
        """Read a dataset's settings as a step has them, with where it is."""
        key = DATASETS[check_choice("dataset", node["name"], DATASETS)].place
        return cls.read({**node, key: place}, "dataset")

    @classmethod
    def axes(cls) -> Axes:
        return {"name": {name: dataset.load for name, dataset in DATASETS.items()}}


def info(settings: DatasetSettings, *, cache: Path = CACHE, progress: Progress | None = None) -> Info:
    """Return what a run's identity needs, and what is known before any pixel is decoded.

    An image_folder is read once for its fingerprint, then remembered. UserError if the settings cannot be met.
    """
    found = DATASETS[settings.name].info(cache, progress, **settings.arguments("name"))
    check(settings, found)
    return found


def check(settings: DatasetSettings, found: Info) -> None:
    """Raise a UserError if images like these cannot be padded or held out as asked."""
    if found.size and settings.pad >= min(found.size):
        height, width = found.size
        text = f"pad={settings.pad} must be less than the height and the width of the images, {height} and {width}"
        raise UserError(text, "pad")
    if found.per_class is not None:
        held_out(settings.val_fraction, found.per_class)


def load_data(
    settings: DatasetSettings | str,
    *,
    cache: Path = CACHE,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    resident_gb: float | None = None,
) -> Data:
    """Return the dataset on `device`; a name alone stands for the dataset as it is, without augmentation.

    `cache` is where downloads and decoded images lie, and are put. Images of more than `resident_gb` (by default half
    of the memory that is free there) stay where they are, and a thread reads them batch by batch. A UserError names
    what cannot be had.
    """
    if isinstance(settings, str):
        settings = DatasetSettings(name=settings)
    data = DATASETS[settings.name].load(cache, progress, **settings.arguments("name"))
    height, width = data.train.images.shape[1:3]
    sizes = torch.bincount(data.train.labels, minlength=len(data.classes)).tolist()
    check(settings, Info(len(data.classes), None, (height, width), tuple(sizes)))
    counts = held_out(settings.val_fraction, sizes)
    train, val, test = data.train, None, data.test
    if not fits(train.images.nbytes + test.images.nbytes, torch.device(device), resident_gb):
        train, test = train.in_place(), test.in_place()
    if any(counts):
        train, val = train.hold_out(counts, rng.generator(0, "val split"))
    return replace(
        data,
        train=train.to(device),
        val=None if val is None else val.to(device),
        test=test.to(device),
        pad=settings.pad,
        flip=settings.flip,
    )


def held_out(fraction: float, per_class: Sequence[int]) -> list[int]:
    """Return how many training images of each class are held out; UserError if that leaves a part empty."""
    counts = [round(fraction * size) for size in per_class]
    for label, (size, count) in enumerate(zip(per_class, counts, strict=True)):
        if fraction and count == size:
            text = f"val_fraction={fraction:g} holds out all {size} training images of class {label}; ask for less"
            raise UserError(text, "val_fraction")
    if fraction and not any(counts):
        text = f"val_fraction={fraction:g} holds out no image at all; ask for more, or 0 for none"
        raise UserError(text, "val_fraction")
    return counts
