"""Files that only save time: a directory that cannot be written is no error, the work is done again next time."""

import contextlib
import json
import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.files import write_whole

ZEROS = 1 << 24  # bytes written at once


def read_text(path: Path) -> str | None:
    """Return the text, or None if there is none."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def write_text(path: Path, text: str) -> None:
    """Keep the text for `read_text`."""
    with contextlib.suppress(UserError):
        write_whole(path, text.encode())


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a safetensors file, mapped into memory, or None if there is no whole file."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception:  # whatever is in it, or is not: it is made again
        return None


def made(path: Path, shape: tuple[int, ...], fill: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return `images`, uint8 of that shape, which `fill` fills, with the `mean` and `std` (float64, 3) that it returns.

    They are kept for `read_tensors`, and never in memory as a whole: the file is mapped while it is filled. Where it
    cannot be written, they are in memory.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        start = _reserve(temporary, shape)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        images = torch.empty(shape, dtype=torch.uint8)
        return {"images": images} | fill(images)
    try:
        whole = torch.from_file(str(temporary), shared=True, size=temporary.stat().st_size, dtype=torch.uint8)
        constants = fill(images := whole[start:].view(shape))
        packed = torch.cat([constants["mean"], constants["std"]]).view(torch.uint8)
        whole[start - len(packed) : start] = packed
        with contextlib.suppress(OSError), temporary.open("rb+") as file:
            os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return read_tensors(path) or {"images": images} | constants


def _reserve(path: Path, shape: tuple[int, ...]) -> int:
    """Write a safetensors file of zeros, and return where its images begin, in bytes; OSError if there is no room.

    A part of a mapped file that the disk has no room for would end the process when it is written to.
    """
    kinds = {"mean": ("F64", [3], 3 * 8), "std": ("F64", [3], 3 * 8), "images": ("U8", shape, math.prod(shape))}
    header, offset = {}, 0
    for name, (dtype, dims, length) in kinds.items():
        header[name] = {"dtype": dtype, "shape": dims, "data_offsets": [offset, offset + length]}
        offset += length
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(packed).to_bytes(8, "little") + packed)
        for done in range(0, offset, ZEROS):
            file.write(bytes(min(ZEROS, offset - done)))
    return 8 + len(packed) + offset - math.prod(shape)
