"""Any image classification set as NumPy arrays: `x_train y_train x_test y_test`, as Keras and MedMNIST write them.

They are in one .npz, which is unpacked once and kept, or in a directory with an .npy for each. Both are mapped; a
directory may be larger than the memory if the images are stored as they are used, (N, H, W, 3).
"""

import hashlib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning.data import cache as store
from pruning.data.moments import channels, moments
from pruning.data.values import Data, Info, Progress, Split
from pruning.errors import UserError
from pruning.settings import path_of

CHUNK = 4096  # images
Whole = tuple[Split, Split, int, str]
_KEPT: dict[tuple[Path, tuple[int, ...]], Whole] = {}
NAMES = {  # what people call them
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images_train", "labels_train")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("images_test", "labels_test")),
}


def info(cache: Path, progress: Progress | None = None, *, file: str | None) -> Info:
    """Return what is known of the images, all read once and checked; UserError says what is wrong with them."""
    path, stamp = _found(file)
    train, _, classes, digest = _read(path, stamp, cache, progress)
    height, width = train.images.shape[1:3]
    count = Counter(train.labels.tolist())
    return Info(classes, digest, (height, width), tuple(count[label] for label in range(classes)))


def load(cache: Path, progress: Progress | None = None, *, file: str | None) -> Data:
    """Return the images; the constants are of the training pixels, and classes are called by their numbers."""
    train, test, classes, _ = _read(*_found(file), cache, progress)
    mean, std = moments(train.images)
    return Data(train, None, test, tuple(map(str, range(classes))), channels(mean), channels(std))


def _found(file: str | None) -> tuple[Path, tuple[int, ...]]:
    """Return the file, and what changes whenever it is written to."""
    if file is None:
        text = "an .npz, or a directory of .npy, with x_train, y_train, x_test and y_test"
        raise UserError(f"file must be given for arrays: {text}", "file")
    path = path_of("file", file).absolute()
    try:
        found = [part.stat() for part in (sorted(path.glob("*.npy")) if path.is_dir() else [path])]
    except OSError as error:
        raise UserError(f"file={file} cannot be read: {error.strerror}", "file") from None
    return path, tuple(number for s in found for number in (s.st_size, s.st_mtime_ns, s.st_ctime_ns))


@contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, Any]]:
    """Give the arrays by their names."""
    if path.is_dir():  # copied on writing, of which there is none: torch wants what may be written to
        yield {part.stem: np.load(part, mmap_mode="c", allow_pickle=False) for part in sorted(path.glob("*.npy"))}
        return
    with path.open("rb") as opened:
        if not isinstance(whole := np.load(opened, allow_pickle=False), np.lib.npyio.NpzFile):
            raise ValueError("it is a single array, not an .npz")
        yield whole


def _read(path: Path, stamp: tuple[int, ...], cache: Path, progress: Progress | None) -> Whole:
    """Return what `_read_anew` does, and keep it: a set is planned and loaded in one process."""
    if (path, stamp) not in _KEPT:
        _KEPT.clear()
        _KEPT[path, stamp] = _checked(path, *_parts(path, stamp, cache, progress))
    return _KEPT[path, stamp]


def _parts(path: Path, stamp: tuple[int, ...], cache: Path, progress: Progress | None) -> list[Split]:
    """Return the training and the test part; what an .npz holds is kept under its path, with its stamp."""

    def read() -> store.Tensors:
        try:
            with _arrays(path) as whole:
                found = {part: _part(whole, part, i, progress) for i, part in enumerate(NAMES)}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
            text = " ".join(str(error).split())[:160]
            raise UserError(f"file={path} cannot be read: {text}", "file") from None
        images = {f"{part}_images": split.images for part, split in found.items()}
        return images | {f"{part}_labels": split.labels for part, split in found.items()}

    tensors = read() if path.is_dir() else _kept(path, stamp, cache, read)
    return [Split(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in NAMES]


def _kept(path: Path, stamp: tuple[int, ...], cache: Path, unpack: Callable[[], store.Tensors]) -> store.Tensors:
    """Return what `unpack` does, from where it is kept if it is of a file with this stamp."""
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    place = cache.expanduser().absolute() / "arrays" / f"{name}.safetensors"

    def read() -> store.Tensors | None:
        found = store.read_kept(place)
        return found if found and found["stamp"].tolist() == [*stamp] else None

    return store.shared(place, read, lambda: store.keep(place, unpack() | {"stamp": torch.tensor(stamp)}))


def _checked(path: Path, train: Split, test: Split) -> Whole:
    """Return both parts, the number of classes, and the sha256 over the arrays as they are used."""
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = " and ".join(f"{part.images.shape[2]}x{part.images.shape[1]}" for part in (train, test))
        raise UserError(f"file={path}: training and test images must have one size, they have {sizes}", "file")
    classes = int(train.labels.max()) + 1
    if missing := sorted({*range(classes)} - {*train.labels.tolist()}):
        raise UserError(f"file={path}: labels must be 0, 1, 2, ..., no training image has {missing[0]}", "file")
    if classes < 2 or int(test.labels.max()) >= classes:
        text = f"training images have {classes} classes, test images the label {int(test.labels.max())}"
        raise UserError(f"file={path}: {text}", "file")
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(f"{tuple(part.images.shape)}".encode())
        for images in part.images.split(CHUNK):
            digest.update(images.numpy().data)
        digest.update(part.labels.numpy().data)
    return train, test, classes, digest.hexdigest()


def _part(whole: Any, part: str, number: int, progress: Progress | None) -> Split:
    pair = next((pair for pair in NAMES[part] if pair[0] in whole and pair[1] in whole), None)
    if pair is None:
        wanted = " or ".join(" and ".join(pair) for pair in NAMES[part])
        raise ValueError(f"it has {', '.join(whole) or 'nothing'}, and not {wanted}")
    images, labels = (whole[name] for name in pair)
    if progress:
        progress("read arrays", number + 1, len(NAMES))
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{pair[1]} must be whole numbers (N,), got {labels.dtype} {list(labels.shape)}")
    if len(labels) != len(images) or not len(labels):
        raise ValueError(f"{pair[0]} has {len(images)} images, {pair[1]} {len(labels)} labels")
    if labels.min() < 0 or labels.max() > 10**6:
        raise ValueError(f"{pair[1]} must be 0, 1, 2, ..., got {labels.min()} to {labels.max()}")
    return Split(_pixels(pair[0], images), torch.from_numpy(labels.astype(np.int64)))


def _pixels(name: str, images: Any) -> Tensor:
    """Return uint8 (N, H, W, 3): grey is repeated, and channels may come first."""
    if images.dtype != np.uint8:
        raise ValueError(f"{name} must be uint8, 0 to 255, got {images.dtype}")
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"{name} must be (N, H, W), (N, H, W, 3) or (N, 3, H, W), got {list(images.shape)}")
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return pixels if pixels.shape[-1] == 3 else pixels.expand(-1, -1, -1, 3).contiguous()
