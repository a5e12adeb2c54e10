"""Published sets of small images: torchvision downloads, checks and unpacks; here they become tensors.

These are kept, so that the workers of a sweep read them at once and share their memory.
"""

import contextlib
import hashlib
import http.client
import io
import pickle
import socket
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.data import cache as store
from pruning.data.values import Channels, Data, Info, Progress, Split
from pruning.errors import UserError
from pruning.files import alone

TIMEOUT = 30.0  # seconds without a byte; the default waits for ever behind some firewalls
BROKEN = (  # what torchvision raises at what is missing, damaged or out of reach
    *(OSError, RuntimeError, EOFError, ValueError, TypeError, KeyError),
    *(http.client.HTTPException, tarfile.TarError, pickle.PickleError),
)


@dataclass(frozen=True)
class Source:
    """One of the sets; `mean` and `std` are over all training pixels scaled to 0..1."""

    title: str
    torchvision: str
    per_class: tuple[int, ...]  # training images
    mean: Channels
    std: Channels
    size: int = 32


SOURCES = {
    "cifar10": Source("CIFAR-10", "CIFAR10", (5000,) * 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Source("CIFAR-100", "CIFAR100", (500,) * 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "fashion_mnist": Source("Fashion-MNIST", "FashionMNIST", (6000,) * 10, (0.2860,) * 3, (0.3530,) * 3, 28),
    "svhn": Source(
        "SVHN",
        "SVHN",
        (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
    ),
}


def info(name: str, _cache: Path, _progress: Progress | None = None) -> Info:
    """Return what is known without the files."""
    source = SOURCES[name]
    return Info(len(source.per_class), None, (source.size, source.size), source.per_class)


def load(name: str, cache: Path, progress: Progress | None = None) -> Data:
    """Return `name` from its files in `cache`, else from the network; a UserError says what is missing."""
    from torchvision import datasets

    source = SOURCES[name]
    dataset = getattr(datasets, source.torchvision)
    directory = cache.expanduser().absolute()
    key = hashlib.sha256(ascii(_files(dataset)).encode()).hexdigest()[:16]
    kept = directory / "decoded" / f"{name}-{key}.safetensors"

    def make() -> store.Tensors:
        return store.keep(kept, _tensors(source, dataset, directory, progress))

    tensors = store.shared(kept, lambda: store.read_kept(kept), make)
    train, test = (Split(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in ("train", "test"))
    classes = bytes(tensors["classes"].tolist()).decode().splitlines()
    return Data(train, None, test, tuple(classes), source.mean, source.std)


def _tensors(source: Source, dataset: Any, directory: Path, progress: Progress | None) -> store.Tensors:
    """Return what is kept of a set: images, labels and the names of the classes."""
    label = f"read {source.title}"
    if progress:
        progress(label, 0, 1)
    try:
        with quiet():
            parts = _parts(dataset, directory)
    except BROKEN as error:
        raise UserError(_advice(source, dataset, directory, error)) from error
    if progress:
        progress(label, 1, 1)
    tensors: store.Tensors = {}
    for name, part in zip(("train", "test"), parts, strict=True):
        tensors |= {f"{name}_images": _pixels(part.data), f"{name}_labels": torch.as_tensor(_labels(part))}
    classes = getattr(parts[0], "classes", map(str, range(len(source.per_class))))
    tensors["classes"] = torch.tensor([*"\n".join(classes).encode()], dtype=torch.uint8)
    return tensors


def _pixels(images: Any) -> Tensor:
    """Return uint8 (N, H, W, 3) of what torchvision holds: grey, or with the channels first or last."""
    found = torch.as_tensor(images)
    if found.ndim == 3:
        found = found[..., None].expand(-1, -1, -1, 3)
    elif found.shape[-1] != 3:
        found = found.permute(0, 2, 3, 1)
    return found.contiguous().clone()


def _labels(part: Any) -> Any:
    return part.labels if hasattr(part, "labels") else part.targets


def _parts(dataset: Any, directory: Path) -> list[Any]:
    """Return the training and the test part as torchvision reads them, fetched first if they are not whole."""
    kinds = ({"split": "train"}, {"split": "test"}) if hasattr(dataset, "split_list") else ({"train": 1}, {"train": 0})
    try:
        return [dataset(directory, **kind) for kind in kinds]
    except RuntimeError:  # missing or damaged
        with alone(directory / f".{Path(_files(dataset)[0][0]).name}.lock"):
            return [dataset(directory, **kind, download=True) for kind in kinds]


def _files(dataset: Any) -> list[tuple[str, str]]:
    """Return what is downloaded, and its md5."""
    if hasattr(dataset, "split_list"):
        return [(name, md5) for part, (_, name, md5) in dataset.split_list.items() if part != "extra"]
    if hasattr(dataset, "resources"):
        return [(f"{dataset.__name__}/raw/{name}", md5) for name, md5 in dataset.resources]
    return [(dataset.filename, dataset.tgz_md5)]


def _advice(source: Source, dataset: Any, directory: Path, error: Exception) -> str:
    """Return the one line that says what went wrong and which file to put where."""
    from torchvision.datasets.utils import check_integrity

    reason = " ".join(f"{type(error).__name__}: {error}".split())
    for name, md5 in _files(dataset):
        file = directory / name
        kind = "python archive" if name.endswith(".tar.gz") else "file"
        wanted = f"put the {source.title} {kind} {file.name} at {file}"
        if not file.exists():
            return f"{source.title} is not in {directory} and could not be downloaded ({reason}); {wanted}"
        if not check_integrity(str(file), md5):
            return f"{file} is corrupt (its md5 is wrong) and could not be downloaded again ({reason}); {wanted}"
    return f"{source.title} could not be unpacked from {file} into {directory} ({reason})"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow torchvision's printing, its progress bar and the warnings about the age of the files."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        socket.setdefaulttimeout(timeout)
