"""Image files to one uint8 tensor, a few files at a time in each of a few threads."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning.data.values import Progress
from pruning.errors import UserError

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


def decode(files: Sequence[Path], progress: Progress | None = None) -> Tensor:
    """Return uint8 (N, H, W, 3), RGB; a UserError names the first file that is no image or of another size."""
    first = decode_one(files[0])
    images = torch.empty(len(files), *first.shape, dtype=torch.uint8)

    def fill(i: int) -> None:
        image = decode_one(files[i])
        if image.shape != first.shape:
            sizes = f"{_size(image)}, but {files[0]} is {_size(first)}"
            raise UserError(f"all images must have one size: {files[i]} is {sizes}")
        images[i] = image

    in_chunks(fill, len(files), "decode images", progress)
    return images


def decode_one(path: Path) -> Tensor:
    """Return one image as uint8 (H, W, 3)."""
    from PIL import Image

    data = read(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode[0] in "IF":  # Pillow would clip it to white
                raise ValueError(f"more than 8 bits a channel (Pillow mode {image.mode})")
            return torch.from_numpy(np.array(image.convert("RGB")))
    except Exception as error:  # the decoders raise nearly everything, SyntaxError included
        raise UserError(f"{path} is not a readable image: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what the decoder says, less the address of our buffer."""
    text = " ".join(str(error).split())
    return "unknown format" if "BytesIO object" in text else text or type(error).__name__


def _size(image: Tensor) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
