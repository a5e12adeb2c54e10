"""Any image classification set of the Hugging Face hub, or in files as its library reads them (`datasets`).

Its own cache is used, so what was downloaded once needs no network again. The content has a fingerprint, and the
decoded pixels are kept under it, as those of a folder.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.data import cache as store
from pruning.data.decode import Size, check_size, decode, in_chunks, opened, size_of
from pruning.data.folder import MEMO
from pruning.data.moments import channels
from pruning.data.values import Data, Info, Progress, Split
from pruning.errors import UserError

TESTS = ("test", "validation", "valid", "val")  # the first that there is
LABELS = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Hub:
    """A set: both parts of `datasets`, with the columns that hold encoded images and class numbers."""

    name: str
    parts: tuple[Any, Any]
    image: str
    label: str
    classes: tuple[str, ...]

    @property
    def labels(self) -> tuple[list[int], list[int]]:
        train, test = (list(part[self.label]) for part in self.parts)
        return train, test

    @property
    def names(self) -> list[Path]:
        """What its images are called in messages."""
        return [Path(self.name) / f"{kind}[{i}]" for kind, part in self.both() for i in range(len(part))]

    def both(self) -> Iterator[tuple[str, Any]]:
        yield from zip(("train", "test"), self.parts, strict=True)

    def encoded(self, i: int) -> bytes:
        """Return the file of image i, test images after those for training."""
        train, test = self.parts
        found = (train[i] if i < len(train) else test[i - len(train)])[self.image]
        return found["bytes"] if found["bytes"] is not None else Path(found["path"]).read_bytes()

    @property
    def stamp(self) -> str:
        """What changes whenever a file of it is written to."""
        files = sorted(file["filename"] for part in self.parts for file in part.cache_files)
        status = [Path(file).stat() for file in files]
        seen = [(file, s.st_size, s.st_mtime_ns) for file, s in zip(files, status, strict=True)]
        return hashlib.sha256(ascii([seen, self.image, self.label, *map(len, self.parts)]).encode()).hexdigest()


def info(cache: Path, progress: Progress | None = None, *, size: int | None = None, **which: str | None) -> Info:
    """Return what is known when all its files have been read once, and none decoded; arguments are those of `load`."""
    found = find(**which)
    digest, shape = fingerprint(found, cache, progress, size)
    count = Counter(found.labels[0])
    return Info(len(found.classes), digest, shape, tuple(count[i] for i in range(len(found.classes))))


def load(
    cache: Path,
    progress: Progress | None = None,
    *,
    hub: str | None,
    subset: str | None = None,
    image: str | None = None,
    label: str | None = None,
    size: int | None = None,
) -> Data:
    """Return the images, decoded once and kept in `cache`; the constants are of the training pixels.

    `hub` is the name on the hub or a directory, `subset` one of its configurations, `image` and `label` columns, `size`
    the height and width in pixels that images are brought to. UserError if the set cannot be had, or is no such set.
    """
    found = find(hub=hub, subset=subset, image=image, label=label)
    digest, shape = fingerprint(found, cache, progress, size)
    names, (train, test) = found.names, found.labels
    kept = cache.expanduser() / "huggingface" / f"{digest}{f'-{size}' if size else ''}.safetensors"

    def fill(images: Tensor) -> None:
        decode(images, names, found.encoded, progress, size)

    tensors = store.decoded(kept, [len(train), len(test)], shape, fill)
    parts = tensors["images"].tensor_split([len(train)])
    splits = [Split(images, torch.tensor(labels)) for images, labels in zip(parts, (train, test), strict=True)]
    return Data(splits[0], None, splits[1], found.classes, channels(tensors["mean"]), channels(tensors["std"]))


def fingerprint(found: Hub, cache: Path, progress: Progress | None, size: int | None) -> tuple[str, Size]:
    """Return the sha256 over images and labels in their order, and the size that all have or are brought to."""
    memo = cache.expanduser() / "huggingface" / f"{found.stamp}{f'-{size}' if size else ''}.fingerprint"
    if known := MEMO.fullmatch(store.read_text(memo) or ""):
        return known[1], (int(known[2]), int(known[3]))
    names, labels = found.names, [label for some in found.labels for label in some]
    digests: list[str] = [""] * len(names)
    with opened(names[0], found.encoded(0)) as first:
        shape = (size, size) if size else size_of(first)

    def digest(i: int) -> None:
        data = found.encoded(i)
        if not size:
            with opened(names[i], data) as image:
                check_size(names[i], size_of(image), names[0], shape)
        digests[i] = hashlib.sha256(data).hexdigest()

    in_chunks(digest, len(names), "fingerprint images", progress)
    text = "".join(f"{label} {value}\n" for label, value in zip(labels, digests, strict=True))
    result = hashlib.sha256(f"{len(found.parts[0])}\n{text}".encode()).hexdigest()
    store.write_text(memo, f"{result} {shape[0]} {shape[1]}")
    return result, shape


@lru_cache(maxsize=1)  # planned and loaded in one process
def find(hub: str | None = None, subset: str | None = None, image: str | None = None, label: str | None = None) -> Hub:
    """Return the set; a UserError says what is missing."""
    if hub is None:
        raise UserError("hub must be given for huggingface, like uoft-cs/cifar10, or a directory of files", "hub")
    try:
        import datasets
    except ImportError:
        raise UserError("dataset=huggingface needs the package datasets: pip install datasets") from None
    try:
        with quiet(datasets):
            parts = datasets.load_dataset(hub, subset)
    except Exception as error:  # whatever it, the network and the files raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"hub={hub} cannot be had: {text}", "hub") from None
    test = next((name for name in TESTS if name in parts), None)
    if "train" not in parts or test is None:
        raise UserError(f"hub={hub} has {', '.join(parts)}, and not train with one of {', '.join(TESTS)}", "hub")
    features = parts["train"].features
    image = column(hub, features, "image", image, [n for n, f in features.items() if isinstance(f, datasets.Image)])
    numbers = [
        n for n, f in features.items() if isinstance(f, datasets.ClassLabel) or f.dtype.startswith(("int", "uint"))
    ]
    label = column(hub, features, "label", label, [n for n in LABELS if n in numbers][:1] or numbers)
    plain = [
        parts[name].select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
        for name in ("train", test)
    ]
    train, tests = (set(part.unique(label)) for part in plain)
    classes = tuple(getattr(features[label], "names", None) or map(str, range(max(train) + 1)))
    if wrong := sorted((train | tests) - {*range(len(classes))}):
        raise UserError(
            f"hub={hub}: {label} must be 0 to {len(classes) - 1}, it has {wrong[0]} (-1: not labelled)", "hub"
        )
    if missing := sorted({*range(len(classes))} - train):
        raise UserError(f"hub={hub}: no training image has the class {classes[missing[0]]}", "hub")
    return Hub(hub, (plain[0], plain[1]), image, label, classes)


def column(hub: str, features: Any, kind: str, given: str | None, found: list[str]) -> str:
    """Return the column that is given, or the only one of its kind."""
    if given is None and len(found) == 1:
        return found[0]
    if given in found or (given in features and kind == "label"):
        return str(given)
    said = f"{kind}={given}: " if given else ""
    has = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    raise UserError(f"{said}hub={hub} must have a column of {kind}s, it has {has}; give dataset.{kind}=COLUMN", kind)


@contextmanager
def quiet(datasets: Any) -> Iterator[None]:
    """Have the library show no bars of its own."""
    shown = datasets.is_progress_bar_enabled() if hasattr(datasets, "is_progress_bar_enabled") else True
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
