"""CIFAR-10 and CIFAR-100: torchvision downloads, checks and unpacks; here they become tensors."""

import contextlib
import fcntl
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

from pruning.data.values import Channels, Data, Info, Progress, Split
from pruning.errors import UserError

TIMEOUT = 30.0  # seconds without a byte; the default waits for ever behind some firewalls


@dataclass(frozen=True)
class Source:
    """One of the two datasets; `mean` and `std` are over all training pixels scaled to 0..1."""

    title: str
    torchvision: str
    num_classes: int
    mean: Channels
    std: Channels


SOURCES = {
    "cifar10": Source("CIFAR-10", "CIFAR10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Source("CIFAR-100", "CIFAR100", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def info(name: str, _cache: Path, _progress: Progress | None = None) -> Info:
    """Return what is known without the archive."""
    classes = SOURCES[name].num_classes
    return Info(classes, None, (32, 32), (50_000 // classes,) * classes)


def load(name: str, cache: Path, progress: Progress | None = None) -> Data:
    """Return `name` from its folder or archive in `cache`, else from the network; a UserError says what is missing."""
    from torchvision import datasets

    source = SOURCES[name]
    dataset = getattr(datasets, source.torchvision)
    directory = cache.expanduser().absolute()
    label = f"read {source.title}"
    if progress:
        progress(label, 0, 1)
    try:
        with _quiet():
            parts = _parts(dataset, directory)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, pickle.PickleError) as error:
        raise UserError(_advice(source, dataset, directory, error)) from error
    if progress:
        progress(label, 1, 1)
    train, test = (Split(torch.from_numpy(p.data.copy()), torch.tensor(p.targets)) for p in parts)
    return Data(train, None, test, tuple(parts[0].classes), source.mean, source.std)


def _parts(dataset: Any, directory: Path) -> list[Any]:
    """Return the training and the test part as torchvision reads them, fetched first if they are not whole."""
    try:
        return [dataset(directory, train=part) for part in (True, False)]
    except RuntimeError:  # missing or damaged
        with _alone(directory / f".{dataset.filename}.lock"):
            return [dataset(directory, train=part, download=part) for part in (True, False)]


def _advice(source: Source, dataset: Any, directory: Path, error: Exception) -> str:
    """Return the one line that says what went wrong and which file to put where."""
    from torchvision.datasets.utils import check_integrity

    archive = directory / dataset.filename
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    wanted = f"put the {source.title} python archive {dataset.filename} at {archive}"
    if not archive.exists():
        return f"{source.title} is not in {directory} and could not be downloaded ({reason}); {wanted}"
    if not check_integrity(str(archive), dataset.tgz_md5):
        return f"{archive} is corrupt (its md5 is wrong) and could not be downloaded again ({reason}); {wanted}"
    return f"{source.title} could not be unpacked from {archive} into {directory} ({reason})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process at a time download and unpack; a directory that cannot be written needs no lock."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(lock.open("w")), fcntl.LOCK_EX)
        yield
