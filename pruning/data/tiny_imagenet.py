"""Tiny ImageNet: 200 classes of ImageNet at 64x64 pixels, as the zip of the course CS231n; its val part is the test."""

import hashlib
from pathlib import Path

from pruning.data import folder
from pruning.data.folder import TEST, TRAIN, Folder, class_files
from pruning.data.published import BROKEN, quiet
from pruning.data.values import Data, Info, Progress
from pruning.errors import UserError
from pruning.files import alone

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
NAME = "tiny-imagenet-200"
TABLE = "val/val_annotations.txt"
CLASSES, PER_CLASS, SIZE = 200, 500, 64


def info(_cache: Path, _progress: Progress | None = None) -> Info:
    """Return what is known without the files."""
    return Info(CLASSES, None, (SIZE, SIZE), (PER_CLASS,) * CLASSES)


def load(cache: Path, progress: Progress | None = None) -> Data:
    """Return the images, from their directory or zip in `cache`, else from the network; decoded once and kept there."""
    root = cache.expanduser().absolute() / NAME
    if not (root / TABLE).is_file():
        _unpack(root, progress)
    try:
        return folder.load_listed(_listing(root), cache, progress)
    except (OSError, KeyError, ValueError) as error:  # UserErrors too: of a class without images
        raise UserError(f"{root} is not as its zip makes it ({error}); delete it, and it is unpacked again") from None


def _listing(root: Path) -> Folder:
    """List train/CLASS/images/*, and val/images/*, whose classes are in a table."""
    classes = tuple(sorted(path.name for path in (root / TRAIN).iterdir() if path.is_dir()))
    train = [(label, *file) for label, name in enumerate(classes) for file in class_files(root, f"train/{name}/images")]
    table = dict(line.split("\t")[:2] for line in (root / TABLE).read_text().splitlines())
    number = {name: label for label, name in enumerate(classes)}
    test = [(number[table[Path(file[0]).name]], *file) for file in class_files(root, "val/images")]
    parts = {TRAIN: train, TEST: test}
    return Folder(
        root,
        classes,
        {part: [file for _, file, _ in some] for part, some in parts.items()},
        {part: [label for label, _, _ in some] for part, some in parts.items()},
        hashlib.sha256(ascii(parts).encode()).hexdigest(),
    )


def _unpack(root: Path, progress: Progress | None) -> None:
    """Unpack the zip beside `root`, fetched first if it is not there or damaged."""
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    archive = root.with_name(f"{NAME}.zip")
    if progress:
        progress("unpack Tiny ImageNet", 0, 1)
    try:
        with alone(root.with_name(f".{archive.name}.lock")), quiet():
            if not check_integrity(str(archive), MD5):
                download_url(URL, str(archive.parent), archive.name, MD5)
            extract_archive(str(archive), str(archive.parent))
    except BROKEN as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        state = "is corrupt (its md5 is wrong)" if archive.exists() else "is not there"
        raise UserError(f"{archive} {state} and could not be downloaded ({reason}); put it there") from error
    if progress:
        progress("unpack Tiny ImageNet", 1, 1)
