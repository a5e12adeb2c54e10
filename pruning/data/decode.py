"""Image files to one uint8 tensor, a few files at a time in each of a few threads."""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning.data.values import Progress
from pruning.errors import UserError

Size = tuple[int, int]
"""Height and width of an image."""

CHUNK = 128  # files per task: one task per small image spends its time on the queue


def read(path: Path) -> bytes:
    """Return the bytes of a file; a UserError names it."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (per small file, Path costs time)
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def in_chunks(work: Callable[[int], None], n: int, label: str, progress: Progress | None) -> None:
    """Call work(0) ... work(n - 1) in a few threads; the error of the lowest failing chunk is raised."""

    def chunk(start: int) -> int:
        for i in range(start, min(start + CHUNK, n)):
            work(i)
        return min(start + CHUNK, n)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            for done in pool.map(chunk, range(0, n, CHUNK)):
                if progress:
                    progress(label, done, n)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def huge_is_an_error() -> Iterator[None]:
    """Make an error of Pillow's warning that an image is absurdly large. Not for threads: around them."""
    from PIL import Image

    with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
        yield


@huge_is_an_error()
def decode(
    images: Tensor,
    names: Sequence[Path],
    encoded: Callable[[int], bytes],
    progress: Progress | None = None,
    size: int | None = None,
) -> None:
    """Fill uint8 (N, H, W, 3), RGB, from `encoded(i)`; a UserError names the first that is no image or of another size.

    With `size` they may have any: they are brought to that height and width.
    """
    shape = (images.shape[1], images.shape[2])

    def fill(i: int) -> None:
        with opened(names[i], encoded(i)) as image:
            if not size:
                check_size(names[i], size_of(image), names[0], shape)
            whole = image.convert("RGB")
            images[i] = torch.from_numpy(np.array(squared(whole, size) if size else whole))

    in_chunks(fill, len(names), "decode images", progress)


def squared(image: Any, size: int) -> Any:
    """Return the image with its shorter side resized to `size` pixels, and the square in its middle.

    Bilinear over all pixels that one covers, as torchvision's Resize and CenterCrop of a Pillow image.
    """
    from PIL import Image

    short = min(image.size)
    width, height = (max(size, int(size * side / short)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


def first_size(files: Sequence[Path]) -> Size:
    """Return height and width of the first file, which all must have."""
    with opened(files[0], read(files[0])) as image:
        return size_of(image)


@contextmanager
def opened(path: Path, data: bytes) -> Iterator[Any]:
    """Give the Pillow image in `data`, of which only the header is read so far; a UserError names `path`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode[0] in "IF":  # Pillow would clip it to white
                raise ValueError(f"more than 8 bits a channel (Pillow mode {image.mode})")
            yield image
    except UserError:
        raise
    except Exception as error:  # the decoders raise nearly everything, SyntaxError included
        raise UserError(f"{path} is not a readable image: {_reason(error)}") from error


def size_of(image: Any) -> Size:
    """Return height and width."""
    return image.height, image.width


def check_size(path: Path, size: Size, first: Path, expected: Size) -> None:
    """Raise a UserError if an image has not the size of the first."""
    if size != expected:
        sizes = f"{_size(size)}, but {first} is {_size(expected)}"
        raise UserError(f"all images must have one size: {path} is {sizes}")


def _reason(error: Exception) -> str:
    """Return what the decoder says, less the address of our buffer."""
    text = " ".join(str(error).split())
    return "unknown format" if "BytesIO object" in text else text or type(error).__name__


def _size(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
