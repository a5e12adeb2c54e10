"""A pruned network in one small file, to the bit: the kept weights, where they are, and the rest.

A safetensors file, so reading it runs no code, with two uint8 tensors: `index` (JSON, zstd) says what there is, `data`
are the zstd frames of `coding` one after the other. The metadata hold architecture, classes and normalisation in one
entry. Equal checkpoints give equal files, for one version of zstd.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from pruning.checkpoints import Checkpoint
from pruning.checkpoints.checkpoint import first_line
from pruning.checkpoints.reading import SPARSE_KEY as KEY
from pruning.checkpoints.reading import about_of, header_of
from pruning.data import Progress
from pruning.errors import UserError
from pruning.export import coding
from pruning.export.coding import CodingError
from pruning.files import write_whole

SPARSE = "model.sparse.safetensors"
VERSION = 1
ALONE = 1 << 14  # tensors with more values have streams of their own, others share them
MOST_INDEX, MOST_BYTES, MOST_RATIO = 1 << 24, 1 << 30, 64  # what a file may ask for: 1 GiB, or 64 times its own size


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
    tensors: list[list[Any]] = []
    groups: dict[Any, list[int]] = {}
    values = []
    total = 2 * len(checkpoint.weights)
    for number, (name, weight) in enumerate(checkpoint.weights.items()):
        flat, keep, about = weight.contiguous().reshape(-1), checkpoint.mask.get(name), []
        if keep is not None:
            places, stream = coding.pack_places(keep.contiguous())
            kept = keep.reshape(-1)
            whole = bool(coding.bytes_of(flat[~kept]).any())  # what is pruned is +0.0, or all values are written
            about = [places, int(kept.sum()), whole, len(stream)]
            streams.append(stream)
            flat = flat if whole else flat[kept]
        tensors.append([name, _kind(name, weight), [*weight.shape], *about])
        values.append(flat)
        alone = flat.numel() > ALONE
        groups.setdefault(number if alone else (weight.dtype, keep is None), []).append(number)
        progress("sparse", number + 1, total)
    packed = []
    for numbers in groups.values():
        parts = coding.pack_values(torch.cat([values[number] for number in numbers]))
        streams.extend(parts)
        packed.append([numbers, [len(part) for part in parts]])
        progress("sparse", len(tensors) + sum(len(of) for of, _ in packed), total)
    index = json.dumps({"tensors": tensors, "values": packed}, separators=(",", ":")).encode()
    found = {"index": coding.squeeze(index), "data": b"".join(streams)}
    # one entry: safetensors writes several in an order that changes from process to process
    metadata = {KEY: json.dumps({"format": VERSION, **checkpoint.about}, sort_keys=True)}
    as_tensors = {name: torch.from_numpy(np.frombuffer(content, np.uint8).copy()) for name, content in found.items()}
    return safetensors.torch.save(as_tensors, metadata)


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
        """Return the weights and the mask that the index describes."""
        tensors, masks = index["tensors"], {}
        counts = [self.claim(shape, coding.DTYPES[kind]) for _, kind, shape, *_ in tensors]
        for number, (_, _, shape, *masked) in enumerate(tensors):
            if masked:
                places, kept, whole, size = masked
                if type(kept) is not int or not 0 <= kept <= counts[number]:
                    raise CodingError(f"it keeps {kept!a} of {counts[number]} weights")
                masks[number] = coding.unpack_places(places, self.take(size), kept, shape)
                counts[number] = counts[number] if whole is True else kept
        values: dict[int, Tensor] = {}
        for numbers, sizes in index["values"]:
            if len({*numbers} - values.keys()) != len(numbers):
                raise CodingError("it has the values of a tensor twice")
            (dtype,) = {coding.DTYPES[tensors[number][1]] for number in numbers}
            parts = [self.take(size) for size in sizes]
            flat = coding.unpack_values(parts, sum(counts[number] for number in numbers), dtype)
            values |= zip(numbers, flat.split([counts[number] for number in numbers]), strict=True)
        weights = {str(name): values.pop(i) for i, (name, *_) in enumerate(tensors)}
        if self.at != len(self.data) or values or len(weights) != len(tensors):
            raise CodingError("its index is not that of its data")
        for i, (name, _, shape, *_) in enumerate(tensors):
            found = weights[name]
            if i in masks and found.numel() != masks[i].numel():
                empty = torch.zeros(masks[i].numel(), dtype=found.dtype)
                found = empty.masked_scatter_(masks[i].reshape(-1), found)
            weights[name] = found.clone().reshape(shape)
        return weights, {tensors[i][0]: keep for i, keep in masks.items()}

    def claim(self, shape: Any, dtype: torch.dtype) -> int:
        """Return the number of values of a shape; CodingError if it is none, or too much is asked for."""
        if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape):
            raise CodingError(f"{shape!a} is no shape")
        count = math.prod(shape)
        self.left -= count * (dtype.itemsize + 2)  # the mask, and the way there
        if self.left < 0:
            raise CodingError("it would become larger than any network here")
        return count

    def take(self, size: Any) -> bytes:
        """Return the next stream."""
        if type(size) is not int or not 0 < size <= len(self.data) - self.at:
            raise CodingError("its data are too short")
        self.at += size
        return self.data[self.at - size : self.at]
