"""A pruned network in one small file, to the bit: the kept weights, where they are, and the rest.

A safetensors file, so reading it runs no code, with two uint8 tensors: `index` (JSON, zstd) says what there is, `data`
are the zstd frames of `coding` one after the other. The metadata hold architecture, classes and normalisation in one
entry. Equal checkpoints give equal files, for one version of zstd.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pruning.checkpoints import Checkpoint
from pruning.checkpoints.checkpoint import first_line
from pruning.checkpoints.reading import about_of, header_of
from pruning.errors import UserError
from pruning.export import coding
from pruning.export.coding import CodingError
from pruning.files import write_whole

SPARSE = "model.sparse.safetensors"
KEY = "pruning.sparse"  # of the metadata: what tells these files from others
VERSION = 1
MOST_INDEX, MOST_BYTES, MOST_RATIO = 1 << 24, 1 << 30, 64  # what a file may ask for: 1 GiB, or 64 times its own size

Progress = Callable[[str, int, int], None]
"""(label, done, total)"""


def _silent(_label: str, _done: int, _total: int) -> None:
    pass


def save_sparse(checkpoint: Checkpoint, path: Path | str, progress: Progress = _silent) -> str:
    """Write the file whole or not at all; return its sha256, in hex. `pruning.load` reads it back to the bit."""
    packed = pack(checkpoint, progress)
    write_whole(Path(path), packed)
    return hashlib.sha256(packed).hexdigest()


def pack(checkpoint: Checkpoint, progress: Progress = _silent) -> bytes:
    """Return the content of the file."""
    streams: list[bytes] = []

    def add(new: list[bytes]) -> list[int]:
        streams.extend(new)
        return [len(stream) for stream in new]

    masked: list[list[Any]] = []
    rest: dict[str, list[str]] = {}
    total = len(checkpoint.mask) + 1
    for name, weight in checkpoint.weights.items():
        if name not in checkpoint.mask:
            rest.setdefault(_kind(name, weight), []).append(name)
            continue
        keep = checkpoint.mask[name]
        flat, kept = weight.contiguous().reshape(-1), keep.reshape(-1)
        places, stream = coding.pack_places(keep.contiguous())
        whole = bool(flat[~kept].view(torch.uint8).any())  # what is pruned is +0.0, or all values are written
        sizes = add([stream, *coding.pack_values(flat if whole else flat[kept])])
        masked.append([name, _kind(name, weight), [*weight.shape], places, int(kept.sum()), whole, sizes])
        progress("sparse", len(masked), total)
    groups = []
    for kind, names in rest.items():
        flat = torch.cat([checkpoint.weights[name].contiguous().reshape(-1) for name in names])
        groups.append(
            [kind, [[name, [*checkpoint.weights[name].shape]] for name in names], add(coding.pack_values(flat))]
        )
    index = json.dumps({"order": [*checkpoint.weights], "masked": masked, "rest": groups}, separators=(",", ":"))
    tensors = {"index": coding.squeeze(index.encode()), "data": b"".join(streams)}
    about = {"format": VERSION, **checkpoint.about}
    progress("sparse", total, total)
    return safetensors.torch.save(
        {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in tensors.items()},
        {KEY: json.dumps(about, sort_keys=True)},  # one entry: safetensors writes several in any order
    )


def _kind(name: str, tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in coding.DTYPES:
        raise UserError(
            f"{name} holds {tensor.dtype} values, which cannot be stored; allowed are {', '.join(coding.DTYPES)}"
        )
    return kind


def is_sparse(content: bytes) -> bool:
    """Return whether the content of a file claims to be one of these."""
    try:
        return KEY in header_of(content)["__metadata__"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return False


def unpack(path: Path, content: bytes) -> Checkpoint:
    """Return what `pack` was given, `path` for messages; UserError if the content is anything else.

    Nothing is unpacked before its size has been compared with what its shape takes.
    """
    try:
        tensors = safetensors.torch.load(content)
        raw = {name: tensors[name].numpy().tobytes() for name in ("index", "data")}
        about = json.loads(header_of(content)["__metadata__"][KEY])
        if (version := about["format"]) != VERSION:
            raise CodingError(f"its format is {version!a}, and this program reads {VERSION}")
        index = json.loads(coding.expand(raw["index"], 2, MOST_INDEX))
        most = max(MOST_BYTES, MOST_RATIO * len(content))
        weights, mask = _Reader(raw["data"], most).read(index)
    except UserError:
        raise
    except CodingError as error:
        raise UserError(f"{path} cannot be read as a sparse checkpoint: {error}") from None
    except Exception as error:  # an index of any shape
        text = f"{path} cannot be read as a sparse checkpoint: {first_line(error)}; is it truncated?"
        raise UserError(text) from None
    return Checkpoint(weights, mask, **about_of(path, about))


class _Reader:
    """Takes the streams one after the other, and adds up what they become."""

    def __init__(self, data: bytes, most: int) -> None:
        self.data, self.at, self.left = data, 0, most

    def read(self, index: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights: dict[str, Tensor] = {}
        mask: dict[str, Tensor] = {}
        for name, kind, shape, places, kept, whole, sizes in index["masked"]:
            count = self.claim(shape, coding.DTYPES[kind], kept)
            stream, *values = self.take(sizes)
            keep = mask[str(name)] = coding.unpack_places(places, stream, kept, shape)
            found = coding.unpack_values(values, count if whole else kept, coding.DTYPES[kind])
            if not whole:
                found = torch.zeros(count, dtype=found.dtype).masked_scatter_(keep.reshape(-1), found)
            weights[str(name)] = found.reshape(shape)
        for kind, named, sizes in index["rest"]:
            counts = [self.claim(shape, coding.DTYPES[kind]) for _, shape in named]
            flat = coding.unpack_values([*self.take(sizes)], sum(counts), coding.DTYPES[kind])
            for (name, shape), part in zip(named, flat.split(counts), strict=True):
                weights[str(name)] = part.clone().reshape(shape)
        if self.at != len(self.data) or sorted(index["order"]) != sorted(weights):
            raise CodingError("its index is not that of its data")
        return {name: weights[name] for name in index["order"]}, mask

    def claim(self, shape: list[int], dtype: torch.dtype, kept: int = 0) -> int:
        """Return the number of values of a shape; CodingError if it is none, or too much is asked for."""
        if type(kept) is not int or any(type(n) is not int or n < 0 for n in shape):
            raise CodingError(f"{shape!a} is no shape")
        count = math.prod(shape)
        self.left -= count * (dtype.itemsize + 2)  # the mask, and the way there
        if self.left < 0:
            raise CodingError("it would become larger than any network here")
        if not 0 <= kept <= count:
            raise CodingError(f"it keeps {kept} of {count} weights")
        return count

    def take(self, sizes: list[int]) -> Iterator[bytes]:
        for size in sizes:
            if type(size) is not int or not 0 < size <= len(self.data) - self.at:
                raise CodingError("its data are too short")
            self.at += size
            yield self.data[self.at - size : self.at]
