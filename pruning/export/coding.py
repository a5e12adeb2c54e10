"""Tensors as few bytes, without loss: what an entropy coder can use is put apart from what is noise.

A float32 is rotated left by one bit, so that its exponent is a byte of its own; trained weights have few exponents,
which are numbered and packed, while sign and fraction are nearly noise. Places are a bitmask or the gaps between them.
Everything then goes through zstd, and comes back only if it has the size that was announced.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

Bytes = NDArray[np.uint8]
Stream = bytes
"""One zstd frame."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OTHERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*FLOATS, *OTHERS)}
GAPS: dict[str, type[np.unsignedinteger]] = {"gaps1": np.uint8, "gaps2": np.uint16, "gaps4": np.uint32}
BITS = "bits"
SMALL = 1 << 16  # up to this many bytes zstd's highest level costs nothing


class CodingError(ValueError):
    """What is read is not what was written."""


@cache
def _compressors() -> tuple[zstandard.ZstdCompressor, ...]:
    """Return one that codes bytes by their frequency, one that also finds repetitions, and a slow one for few bytes."""
    frequency = zstandard.ZstdCompressionParameters.from_level(
        3, strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17
    )
    level = zstandard.ZstdCompressor
    return level(compression_params=frequency), level(level=12), level(level=19)


def squeeze(content: bytes) -> Stream:
    """Return the smallest of a few zstd frames; the same for the same bytes."""
    frequency, repetitions, slow = _compressors()
    chosen = (frequency, slow) if len(content) <= SMALL else (frequency, repetitions)
    return min((compressor.compress(content) for compressor in chosen), key=len)


def expand(stream: Stream, least: int, most: int) -> bytes:
    """Return the content of a frame that says itself that it has `least` to `most` bytes; nothing else is unpacked."""
    try:
        announced = zstandard.get_frame_parameters(stream).content_size
        if not least <= announced <= most:  # also where it is not said
            raise CodingError(f"a part has {announced} bytes, not {least} to {most}")
        return zstandard.ZstdDecompressor().decompress(stream, max_output_size=most, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodingError(f"a part is damaged ({error})") from None


def bytes_of(tensor: Tensor) -> Bytes:
    """Return the bytes of a tensor, in its order."""
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)


def pack_values(values: Tensor) -> list[Stream]:
    """Return the bits of a flat tensor: exponents, and sign and fraction, of float32; the bytes by place otherwise."""
    raw = bytes_of(values)
    if values.dtype != torch.float32:
        return [squeeze(raw.reshape(-1, values.element_size()).T.tobytes())]
    bits = raw.view(np.uint32)
    planes = ((bits << 1) | (bits >> 31)).astype("<u4").view(np.uint8).reshape(-1, 4)
    return [squeeze(_pack_symbols(planes[:, 3])), squeeze(planes[:, :3].T.tobytes())]


def unpack_values(streams: Sequence[Stream], count: int, dtype: torch.dtype) -> Tensor:
    """Return the flat tensor of `count` values that `pack_values` was given."""
    if len(streams) != value_streams(dtype):
        raise CodingError("parts are missing")
    if dtype != torch.float32:
        size = dtype.itemsize * count
        planes = np.frombuffer(expand(streams[0], size, size), np.uint8).reshape(dtype.itemsize, count).T
        if dtype == torch.bool and planes.size and planes.max() > 1:
            raise CodingError("a truth value is neither true nor false")
        return torch.from_numpy(planes.copy().reshape(-1)).view(dtype)
    rotated = np.empty((count, 4), np.uint8)
    rotated[:, 3] = _unpack_symbols(expand(streams[0], 0, 257 + count), count)
    rotated[:, :3] = np.frombuffer(expand(streams[1], 3 * count, 3 * count), np.uint8).reshape(3, count).T
    bits = rotated.reshape(-1).view("<u4").astype(np.uint32)
    return torch.from_numpy(((bits >> 1) | (bits << 31)).view(np.float32))


def value_streams(dtype: torch.dtype) -> int:
    """Return how many streams the values of a type are."""
    return 2 if dtype == torch.float32 else 1


def _per_byte(kinds: int) -> int:
    """Return how many numbers below `kinds` one byte holds."""
    return next((n for n in (8, 4, 2) if kinds <= 2 ** (8 // n)), 1)


def _pack_symbols(symbols: Bytes) -> bytes:
    """Return how many kinds there are (less one), the kinds, and their numbers, packed: zstd spends a bit a byte."""
    if not symbols.size:
        return b""
    counts = np.bincount(symbols, minlength=256)
    kinds = np.flatnonzero(counts).astype(np.uint8)
    number = np.zeros(256, np.uint8)
    number[kinds] = np.arange(len(kinds))
    per = _per_byte(len(kinds))
    padded = np.zeros(-(-symbols.size // per) * per, np.uint8)
    padded[: symbols.size] = number[symbols]
    packed = np.zeros(len(padded) // per, np.uint8)
    for i in range(per):
        packed |= padded[i::per] << np.uint8(i * (8 // per))
    return bytes([len(kinds) - 1]) + kinds.tobytes() + packed.tobytes()


def _unpack_symbols(content: bytes, count: int) -> Bytes:
    found = np.frombuffer(content, np.uint8)
    if not count:
        if found.size:
            raise CodingError("there are values where none are expected")
        return found
    if not found.size:
        raise CodingError("there are no values where some are expected")
    many = int(found[0]) + 1
    per, kinds, packed = _per_byte(many), found[1 : 1 + many], found[1 + many :]
    if len(kinds) != many or len(packed) != -(-count // per):
        raise CodingError("exponents are missing")
    numbers = np.empty(len(packed) * per, np.uint8)
    for i in range(per):
        numbers[i::per] = (packed >> np.uint8(i * (8 // per))) & np.uint8(2 ** (8 // per) - 1)
    if (numbers := numbers[:count]).max() >= many:
        raise CodingError("an exponent is none of those that there are")
    return kinds[numbers]


def pack_places(keep: Tensor) -> tuple[str, Stream]:
    """Return the shorter of two codings of the True places: a bit for each place, or the gaps between them."""
    flat = keep.reshape(-1).numpy()
    gaps = np.diff(np.flatnonzero(flat), prepend=-1) - 1
    name = next(name for name, kind in GAPS.items() if not gaps.size or gaps.max() <= np.iinfo(kind).max)
    narrow = gaps.astype(np.dtype(GAPS[name]).newbyteorder("<"))
    shuffled = narrow.view(np.uint8).reshape(-1, narrow.itemsize).T.tobytes()
    codings = [(BITS, squeeze(np.packbits(flat).tobytes())), (name, squeeze(shuffled))]
    return min(codings, key=lambda coding: len(coding[1]))


def unpack_places(coding: str, stream: Stream, kept: int, shape: Sequence[int]) -> Tensor:
    """Return the bool tensor that `pack_places` was given; `kept` of it are True."""
    places = math.prod(shape)
    if coding == BITS:
        size = -(-places // 8)
        packed = np.frombuffer(expand(stream, size, size), np.uint8)
        flat = np.unpackbits(packed, count=places).astype(np.bool_)
    elif coding in GAPS:
        width = np.dtype(GAPS[coding]).itemsize
        size = kept * width
        planes = np.frombuffer(expand(stream, size, size), np.uint8).reshape(width, kept).T
        gaps = np.ascontiguousarray(planes).reshape(-1).view(f"<u{width}").astype(np.int64)
        at = np.cumsum(gaps + 1) - 1
        if kept and at[-1] >= places:
            raise CodingError("a kept place lies beyond the end")
        flat = np.zeros(places, np.bool_)
        flat[at] = True
    else:
        raise CodingError(f"its coding of places, {coding!a}, is unknown")
    if int(flat.sum()) != kept:
        raise CodingError("it keeps another number of places than it says")
    return torch.from_numpy(flat).reshape(tuple(shape))
