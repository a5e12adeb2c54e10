"""Any image classification set as files: ROOT/train/CLASS/* and ROOT/test/CLASS/*.

The content has a fingerprint that does not depend on where the folder is; the decoded pixels are kept under it,
so that a folder is decoded once.
"""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruning.data import cache as store
from pruning.data.decode import Size, check_size, decode, first_size, huge_is_an_error, in_chunks, opened, read, size_of
from pruning.data.moments import channels
from pruning.data.values import Data, Info, Progress, Split
from pruning.errors import UserError
from pruning.settings import path_of

MEMO = re.compile(r"([0-9a-f]{64}) (\d{1,9}) (\d{1,9})", re.ASCII)  # fingerprint, height, width
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
    base = path_of("root", root).absolute()
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
            for entry in class_files(base, f"{part}/{name}")
        ]
        labels[part] = [label for label, _, _ in entries]
        files[part] = [file for _, file, _ in entries]
        stamp.update(ascii([entry[1:] for entry in entries]).encode())
    return Folder(base, classes[TRAIN], files, labels, stamp.hexdigest())


@huge_is_an_error()
def fingerprint(
    folder: Folder, cache: Path, progress: Progress | None = None, size: int | None = None
) -> tuple[str, Size]:
    """Return the sha256 over the sorted (relative path, sha256 of the bytes), and the size that all images have.

    Both are remembered by the folder's stamp. UserError for a file that is no image, or of another size: every file
    is read here, and its header costs little more. With `size` they may have any, and are brought to that one.
    """
    memo = cache.expanduser() / "image_folder" / f"{folder.stamp}{_suffix(size)}.fingerprint"
    if known := MEMO.fullmatch(store.read_text(memo) or ""):  # anything else is not ours
        return known[1], (int(known[2]), int(known[3]))
    files = [folder.root / file for file in folder.all_files]
    found = (size, size) if size else first_size(files)
    digests: list[str] = [""] * len(files)

    def digest(i: int) -> None:
        data = read(files[i])
        with opened(files[i], data) as image:
            if not size:
                check_size(files[i], size_of(image), files[0], found)
        digests[i] = hashlib.sha256(data).hexdigest()

    in_chunks(digest, len(files), "fingerprint images", progress)
    lines = sorted(f"{file!a} {value}\n" for file, value in zip(folder.all_files, digests, strict=True))
    result = hashlib.sha256("".join(lines).encode()).hexdigest()
    store.write_text(memo, f"{result} {found[0]} {found[1]}")
    return result, found


def _suffix(size: int | None) -> str:
    """Return what tells what is remembered of images that are brought to a size."""
    return f"-{size}" if size else ""


def info(cache: Path, progress: Progress | None = None, *, root: str | None, size: int | None = None) -> Info:
    """Return what is known of the folder when all its files have been read once, and none decoded."""
    listing = scan(root)
    if len(listing.classes) < 2:
        text = f"root={root} has one class, {listing.classes[0]!r}; there is nothing to tell apart, give at least two"
        raise UserError(text, "root")
    found, shape = fingerprint(listing, cache, progress, size)
    count = Counter(listing.labels[TRAIN])
    return Info(len(listing.classes), found, shape, tuple(count[i] for i in range(len(listing.classes))))


def load(cache: Path, progress: Progress | None = None, *, root: str | None, size: int | None = None) -> Data:
    """Return the folder's images, decoded once and kept in `cache`; the constants are of its training pixels.

    With `size` they are resized, to that many pixels of their shorter side, and the square in their middle is cut out.
    """
    return load_listed(scan(root), cache, progress, size)


def load_listed(folder: Folder, cache: Path, progress: Progress | None = None, size: int | None = None) -> Data:
    """Return the images of a listing, as `load` does."""
    found, shape = fingerprint(folder, cache, progress, size)
    kept = cache.expanduser() / "image_folder" / f"{found}{_suffix(size)}.safetensors"

    def fill(images: Tensor) -> None:
        files = [folder.root / file for file in folder.all_files]
        decode(images, files, lambda i: read(files[i]), progress, size)

    tensors = store.decoded(kept, [len(folder.files[part]) for part in PARTS], shape, fill)
    train, test = (
        Split(images, torch.tensor(folder.labels[part]))
        for part, images in zip(PARTS, tensors["images"].tensor_split([len(folder.files[TRAIN])]), strict=True)
    )
    return Data(train, None, test, folder.classes, channels(tensors["mean"]), channels(tensors["std"]))


def _class_names(base: Path, part: str) -> tuple[str, ...]:
    for directory in (base, base / part):
        if not directory.is_dir():
            text = f"root must have train/CLASS/* and test/CLASS/*: {directory} is not a directory"
            raise UserError(text, "root")
    names = sorted(entry.name for entry in _entries(base / part) if (base / part / entry.name).is_dir())
    if not names:
        raise UserError(f"{base / part} has no class folders; images belong in {base / part / 'CLASS'}")
    return tuple(names)


def class_files(base: Path, folder: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Return (relative path, stamp) of the files in `folder` below `base`, sorted by name."""
    found = []
    for entry in sorted(_entries(base / folder), key=lambda entry: entry.name):
        try:
            status = entry.stat()
        except OSError as error:  # such as a link to nowhere, or to itself
            raise UserError(f"{entry.path} must be an image file: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{entry.path} must be an image file")
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
