"""Any image classification set as files: ROOT/train/CLASS/* and ROOT/test/CLASS/*.

The content has a fingerprint that does not depend on where the folder is; the decoded pixels are kept under it,
so that a folder is decoded once.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruning.data import cache as store
from pruning.data.decode import decode, in_chunks, read
from pruning.data.values import Channels, Data, Info, Progress, Split
from pruning.errors import UserError

TRAIN, TEST = PARTS = ("train", "test")  # directories below the root


@dataclass(frozen=True)
class Folder:
    """A listing: per part and class, the files as relative POSIX paths, in a fixed order."""

    root: Path
    classes: tuple[str, ...]
    files: dict[str, list[str]]  # part -> relative paths, class by class
    labels: dict[str, list[int]]  # part -> class index of each file
    stamp: str  # changes whenever a file is added, removed or written to

    @property
    def all_files(self) -> list[str]:
        return [file for part in PARTS for file in self.files[part]]


def scan(root: str | None) -> Folder:
    """List the folder without opening a file; a UserError names what is missing, empty or does not match."""
    if root is None:
        text = "root must be given for image_folder: the directory with train/CLASS/* and test/CLASS/*"
        raise UserError(text, "root")
    base = Path(root).expanduser().absolute()
    classes = {part: _class_names(base, part) for part in PARTS}
    for part, other in (PARTS, PARTS[::-1]):
        if missing := sorted(set(classes[other]) - set(classes[part])):
            raise UserError(f"{base / part} must have the classes of {base / other}, {missing[0]!r} is missing")
    stamp = hashlib.sha256()
    files: dict[str, list[str]] = {}
    labels: dict[str, list[int]] = {}
    for part in PARTS:
        entries = [
            (label, *entry)
            for label, name in enumerate(classes[TRAIN])
            for entry in _class_files(base, f"{part}/{name}")
        ]
        labels[part] = [label for label, _, _ in entries]
        files[part] = [file for _, file, _ in entries]
        stamp.update(ascii([entry[1:] for entry in entries]).encode())
    return Folder(base, classes[TRAIN], files, labels, stamp.hexdigest())


def fingerprint(folder: Folder, cache: Path, progress: Progress | None = None) -> str:
    """Return the sha256 over the sorted (relative path, sha256 of the bytes), remembered by the folder's stamp."""
    memo = cache.expanduser() / "image_folder" / f"{folder.stamp}.fingerprint"
    known = store.read_text(memo)
    if known and len(known) == 64:  # anything else is not ours
        return known
    files = folder.all_files
    digests: list[str] = [""] * len(files)

    def digest(i: int) -> None:
        digests[i] = hashlib.sha256(read(folder.root / files[i])).hexdigest()

    in_chunks(digest, len(files), "fingerprint images", progress)
    lines = sorted(f"{file!a} {value}\n" for file, value in zip(files, digests, strict=True))
    result = hashlib.sha256("".join(lines).encode()).hexdigest()
    store.write_text(memo, result)
    return result


def info(cache: Path, progress: Progress | None = None, *, root: str | None) -> Info:
    """Return the number of classes, and the fingerprint of all files."""
    listing = scan(root)
    return Info(len(listing.classes), fingerprint(listing, cache, progress))


def load(cache: Path, progress: Progress | None = None, *, root: str | None) -> Data:
    """Return the folder's images, decoded once and kept in `cache`; the constants are of its training pixels."""
    folder = scan(root)
    kept = cache.expanduser() / "image_folder" / f"{fingerprint(folder, cache, progress)}.safetensors"
    tensors = store.read_tensors(kept)
    if tensors is None:
        images = decode([folder.root / file for file in folder.all_files], progress)
        mean, std = _moments(images[: len(folder.files[TRAIN])])
        tensors = {"images": images, "mean": mean, "std": std}
        store.write_tensors(kept, tensors)
    train, test = (
        Split(images, torch.tensor(folder.labels[part]))
        for part, images in zip(PARTS, tensors["images"].tensor_split([len(folder.files[TRAIN])]), strict=True)
    )
    return Data(train, None, test, folder.classes, _channels(tensors["mean"]), _channels(tensors["std"]))


def _class_names(base: Path, part: str) -> tuple[str, ...]:
    for directory in (base, base / part):
        if not directory.is_dir():
            text = f"root must have train/CLASS/* and test/CLASS/*: {directory} is not a directory"
            raise UserError(text, "root")
    names = sorted(entry.name for entry in _entries(base / part) if entry.is_dir())
    if not names:
        raise UserError(f"{base / part} has no class folders; images belong in {base / part / 'CLASS'}")
    return tuple(names)


def _class_files(base: Path, folder: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Return (relative path, stamp) of the files of one class, sorted by name."""
    found = []
    for entry in sorted(_entries(base / folder), key=lambda entry: entry.name):
        if not entry.is_file():
            raise UserError(f"{entry.path} must be an image file")
        status = entry.stat()
        # The change time too: an unpacked archive can put back size and modification time, never this one.
        found.append((f"{folder}/{entry.name}", (status.st_size, status.st_mtime_ns, status.st_ctime_ns)))
    if not found:
        raise UserError(f"{base / folder} has no images; put some there or remove the class")
    return found


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a directory except hidden files, which desktops and notebooks leave behind."""
    try:
        with os.scandir(directory) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{directory} cannot be read: {error.strerror}") from error


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (float64, 3 each) of uint8 (N, H, W, 3) scaled to 0..1, from exact sums."""
    count = images[..., 0].numel()
    total, squares = torch.zeros(2, 3, dtype=torch.int64)
    for part in images.split(256):
        flat = part.reshape(-1, 3).long()
        total += flat.sum(0)
        squares += flat.square().sum(0)
    # Exact integers up to the last step: with floats, bright and even images would cancel to nothing.
    variance = [(count * s - t * t) / (count * count) for t, s in zip(total.tolist(), squares.tolist(), strict=True)]
    std = torch.tensor(variance, dtype=torch.float64).sqrt() / 255
    return total.double() / count / 255, torch.where(std > 0, std, 1.0)  # a constant channel is left as it is


def _channels(values: Tensor) -> Channels:
    red, green, blue = values.tolist()
    return red, green, blue
