"""Files that only save time: a directory that cannot be written is no error, the work is done again next time."""

import contextlib
import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pruning.data.moments import moments
from pruning.errors import UserError
from pruning.files import alone, write_whole

Tensors = dict[str, Tensor]
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


def shared(path: Path, read: Callable[[], Tensors | None], make: Callable[[], Tensors]) -> Tensors:
    """Return what `read` finds at `path`; if it is None, one process of this machine calls `make`, and others wait."""
    if (found := read()) is not None:
        return found
    with alone(path.with_name(f".{path.name}.lock")):
        found = read()
        return make() if found is None else found


def keep(path: Path, tensors: Tensors) -> Tensors:
    """Keep the tensors for `read_kept`, and return them as that does; where they cannot be written, as they are."""
    from safetensors.torch import save

    with contextlib.suppress(UserError):
        write_whole(path, save(tensors | {"sha256": _digest(tensors)}))
    return read_kept(path) or tensors


def read_kept(path: Path) -> Tensors | None:
    """Return the tensors, mapped into memory, which other processes share; None if they are not there, to the bit."""
    tensors = read_tensors(path) or {}
    digest = tensors.pop("sha256", None)
    return tensors if digest is not None and digest.tolist() == _digest(tensors).tolist() else None


def _digest(tensors: Tensors) -> Tensor:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(ascii((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.numpy().data)
    return torch.tensor([*digest.digest()], dtype=torch.uint8)


def read_tensors(path: Path) -> Tensors | None:
    """Return the tensors of a safetensors file, mapped into memory, or None if there is no whole file."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception:  # whatever is in it, or is not: it is made again
        return None


def decoded(path: Path, counts: Sequence[int], size: tuple[int, int], fill: Callable[[Tensor], None]) -> Tensors:
    """Return `images`, uint8 (N, H, W, 3), which `fill` fills if they are not at `path`, with their `mean` and `std`.

    `counts` are of training and test images, which add up to N, `size` is (H, W); the constants (float64, 3) are of the
    training pixels scaled to 0..1. They may be larger than the memory, so the whole is not read to check it.
    """
    shape = (sum(counts), *size, 3)

    def filled(images: Tensor) -> Tensors:
        fill(images)
        return dict(zip(("mean", "std"), moments(images[: counts[0]]), strict=True))

    return shared(path, lambda: _whole(read_tensors(path) or {}, shape), lambda: _made(path, shape, filled))


def _whole(tensors: Tensors, shape: tuple[int, ...]) -> Tensors | None:
    """Return them if they are decoded images of that shape with their constants."""
    expected = {"images": (torch.uint8, shape), "mean": (torch.float64, (3,)), "std": (torch.float64, (3,))}
    if {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} != expected:
        return None
    constants = torch.stack([tensors["mean"], tensors["std"]])
    return tensors if ((constants >= 0) & (constants <= 1)).all() and (tensors["std"] > 0).all() else None


def _made(path: Path, shape: tuple[int, ...], fill: Callable[[Tensor], Tensors]) -> Tensors:
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
