"""The sparse file: to the bit, small, and nothing in it believed."""

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pruning
from pruning import checkpoints
from pruning.checkpoints import Checkpoint
from pruning.checkpoints.reading import SPARSE_KEY
from pruning.errors import UserError
from pruning.export import coding, load_as, sparse
from pruning.export.coding import CodingError
from tests.commands import ROOT
from tests.export.made import NORMALISATION, checkpoint, same
from tests.helpers import equal

PATH = Path("x.safetensors")


def around(weights: dict[str, Tensor], mask: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(weights, mask, "resnet20", 10, NORMALISATION)


@pytest.mark.parametrize("sparsity", [0, 0.3, 0.999])
def test_round_trip_to_the_bit_of_a_file(tmp_path: Path, sparsity: float) -> None:
    path, written = tmp_path / "model.sparse.safetensors", checkpoint(sparsity=sparsity)
    kept = written.weights["bn1.bias"]
    kept[:3] = torch.tensor([-0.0, 1e-40, -1e38])
    digest = pruning.save_sparse(written, path)
    for found in (pruning.load(path), pruning.load(str(path), digest)):
        assert same(found, written)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("fill", [True, False], ids=["kept", "pruned"])
def test_layers_that_are_kept_or_pruned_whole(fill: bool) -> None:
    for shape in ((3, 4), (0, 4), (), (70_000,)):
        keep = torch.full(shape, fill)
        written = around({"a.weight": torch.randn(shape) * keep + 0.0, "n": torch.tensor(7)}, {"a.weight": keep})
        assert same(sparse.unpack(PATH, sparse.pack(written)), written)


KINDS = [*coding.DTYPES.values()]
BYTE = st.integers(0, 255)


@st.composite
def tensors(draw: st.DrawFn) -> Checkpoint:
    """Any bits of any type, nan and -0.0 among them, also where the mask prunes."""
    weights, mask = {}, {}
    for i in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(KINDS))
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        size = dtype.itemsize * math.prod(shape)
        raw = draw(st.binary(min_size=size, max_size=size)) if draw(st.booleans()) else bytes([draw(BYTE)]) * size
        raw = bytes(b & 1 for b in raw) if dtype == torch.bool else raw
        flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
        weights[f"é{i}"] = flat.view(dtype).reshape(shape)
        if draw(st.booleans()):
            places = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
            keep = mask[f"é{i}"] = torch.tensor(places, dtype=torch.bool).reshape(shape)
            if draw(st.booleans()):
                weights[f"é{i}"] = torch.where(keep, weights[f"é{i}"], torch.zeros((), dtype=dtype))
    return around(weights, mask)


@given(tensors())
@settings(deadline=None, max_examples=150)
def test_round_trip_of_any_tensors(written: Checkpoint) -> None:
    packed = sparse.pack(written)
    assert same(sparse.unpack(PATH, packed), written)
    assert sparse.pack(written) == packed


@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_places(places: int, density: float, seed: int) -> None:
    keep = torch.rand(places, generator=torch.Generator().manual_seed(seed)) < density
    name, stream = coding.pack_places(keep)
    assert torch.equal(coding.unpack_places(name, stream, int(keep.sum()), (places,)), keep)


def test_gaps_of_every_width() -> None:
    for gap, name in ((5, "gaps1"), (300, "gaps2"), (70_000, "gaps4")):
        keep = torch.zeros(200 * gap, dtype=torch.bool)
        keep[torch.randperm(200, generator=torch.Generator().manual_seed(0))[:100] * gap] = True
        keep[-1] = True
        coded, stream = coding.pack_places(keep)
        assert coded in (name, "bits", "gaps2", "gaps4")
        assert torch.equal(coding.unpack_places(coded, stream, int(keep.sum()), keep.shape), keep)


# vgg16's head of linear layers, which layers=conv keeps, is 1.5 % of the dense file by itself: 0.06 is its floor
BOUNDS = [(0.3, 0.62, 0.62), (0.8, 0.20, 0.20), (0.95, 0.055, 0.062)]


@pytest.mark.parametrize("arch", ["resnet56", "vgg16"])
@pytest.mark.parametrize(("sparsity", "most", "most_of_vgg"), BOUNDS)
def test_size_of_the_dense_file(arch: str, sparsity: float, most: float, most_of_vgg: float) -> None:
    made = checkpoint(arch, sparsity)
    share = len(sparse.pack(made)) / len(safetensors.torch.save(made.weights))
    assert share <= (most_of_vgg if arch == "vgg16" else most)


def test_size_of_vgg16_with_its_linear_layers_pruned_too() -> None:
    made = checkpoint("vgg16", 0.95, "conv+linear")
    assert len(sparse.pack(made)) <= 0.055 * len(safetensors.torch.save(made.weights))


WRITE = """
import sys, hashlib
from pruning.export import sparse
from tests.export.made import checkpoint
print(hashlib.sha256(sparse.pack(checkpoint())).hexdigest())
"""


def test_equal_checkpoints_are_equal_files_in_every_process_order_and_layout() -> None:
    made = checkpoint()
    weights = dict(made.weights)
    weights["conv1.weight"] = weights["conv1.weight"].to(memory_format=torch.channels_last)
    packed = sparse.pack(made)
    assert sparse.pack(replace(made, weights=weights, mask=dict(reversed(made.mask.items())))) == packed
    command = [sys.executable, "-c", WRITE]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == hashlib.sha256(packed).hexdigest()


def test_a_step_starts_from_one_as_from_the_file_that_it_was_made_of(tmp_path: Path) -> None:
    made = checkpoint()
    pruning.save_sparse(made, tmp_path / "x")
    found = load_as(tmp_path / "x", made.arch, made.num_classes)
    assert equal(found.weights, made.weights)
    assert equal(found.mask, made.mask)
    assert found.normalisation == made.normalisation
    with pytest.raises(UserError, match=f"^path={tmp_path}/x holds {made.arch} for .* not vgg16"):
        load_as(tmp_path / "x", "vgg16", made.num_classes)
    with pytest.raises(UserError, match="is a sparse file of stage=export"):  # a run's own model is never one
        checkpoints.load(tmp_path / "x")


def test_a_kind_of_tensor_that_cannot_be_stored() -> None:
    with pytest.raises(UserError, match=r"^a holds torch.complex64 values, which cannot be stored"):
        sparse.pack(around({"a": torch.zeros(2, dtype=torch.complex64)}, {}))


def rebuilt(change: Callable[[dict[str, Any], bytearray, dict[str, Any]], Any]) -> bytes:
    """Return a file whose index, data or metadata are changed."""
    whole = sparse.pack(checkpoint())
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    found = {name: tensor.numpy().tobytes() for name, tensor in safetensors.torch.load(whole).items()}
    about = json.loads(header["__metadata__"][SPARSE_KEY])
    index = json.loads(coding.expand(found["index"], 0, 1 << 24))
    data = bytearray(found["data"])
    new = change(index, data, about)
    parts = {"index": coding.squeeze(json.dumps(index if new is None else new).encode()), "data": bytes(data)}
    tensors = {name: torch.frombuffer(bytearray(part), dtype=torch.uint8) for name, part in parts.items()}
    return safetensors.torch.save(tensors, {SPARSE_KEY: json.dumps(about)})


def put(at: tuple[Any, ...], value: Any) -> Callable[..., None]:
    def change(index: Any, data: bytearray, about: Any) -> None:
        place = {"index": index, "about": about}[at[0]]
        for key in at[1:-1]:
            place = place[key]
        place[at[-1]] = value

    return change


def bomb(index: Any, data: bytearray, about: Any) -> None:
    """A frame of a hundred bytes that says it is small and becomes a gigabyte."""
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 24))
    index["tensors"][0][6] = len(frame)
    data[:] = frame + data


def honest_bomb(index: Any, data: bytearray, about: Any) -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(1 << 24))
    index["tensors"][0][6] = len(frame)
    data[:] = frame + data


def torn(index: Any, data: bytearray, about: Any) -> None:
    data[100] ^= 255
    data[1000] ^= 255


DAMAGE: list[tuple[str, Callable[..., Any], str]] = [
    ("a data byte", torn, ""),
    ("data cut", lambda index, data, about: data.__delitem__(slice(-10, None)), "its data are too short"),
    ("data more", lambda index, data, about: data.extend(b"12"), "its index is not that of its data"),
    ("index a list", lambda index, data, about: [], ""),
    ("index empty", lambda index, data, about: {"tensors": [], "values": []}, "its index is not that of its data"),
    ("shape huge", put(("index", "tensors", 0, 2), [1 << 40, 3]), "larger than any network"),
    ("shape negative", put(("index", "tensors", 0, 2), [-16, -3]), "is no shape"),
    ("shape other", put(("index", "tensors", 0, 2), [16, 3, 3, 4]), "a part has"),
    ("shape a number", put(("index", "tensors", 0, 2), 5), "is no shape"),
    ("kept too many", put(("index", "tensors", 0, 4), 10**9), "it keeps"),
    ("kept other", put(("index", "tensors", 0, 4), 3), ""),
    ("kept a word", put(("index", "tensors", 0, 4), "many"), "it keeps"),
    ("type unknown", put(("index", "tensors", 0, 1), "object"), ""),
    ("coding unknown", put(("index", "tensors", 0, 3), "pickle"), "its coding of places, 'pickle', is unknown"),
    ("size negative", put(("index", "tensors", 0, 6), -1), "its data are too short"),
    ("values twice", lambda index, data, about: index["values"].append(index["values"][0]), "twice"),
    ("a value repeated", put(("index", "values", 0, 0), [0] * 10**5), "twice"),
    ("a place before the first", put(("index", "values", 0, 0, 0), -1), ""),
    ("values missing", lambda index, data, about: index["values"].pop(), ""),
    ("a name twice", put(("index", "tensors", 1, 0), "conv1.weight"), "its index is not that of its data"),
    ("a foreign name", put(("index", "tensors", 0, 0), "conv9.weight"), "does not fit arch=resnet20"),
    ("bomb", bomb, "a part has"),
    ("honest bomb", honest_bomb, "a part has 16777216 bytes"),
    ("a later format", put(("about", "format"), 2), "its format is 2, and this program reads 1"),
    ("no format", lambda index, data, about: about.pop("format"), ""),
    ("architecture", put(("about", "arch"), "resnet56"), "does not fit arch=resnet56"),
    ("architecture unknown", put(("about", "arch"), "/bin/sh"), "does not know"),
    ("classes", put(("about", "num_classes"), 1 << 30), "does not fit"),
    ("normalisation", put(("about", "normalisation"), [1]), "do not name the architecture"),
]


@pytest.mark.parametrize(("change", "text"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_what_is_damaged_is_refused_in_one_line(change: Callable[..., Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(rebuilt(change))
    with pytest.raises(UserError) as caught:
        pruning.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert text in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "x", sparse.pack(checkpoint())
    for size in (0, 1, 8, 9, 50, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cannot be read as a"):
            pruning.load(path)


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_a_changed_byte_is_refused_or_changes_values_only(data: st.DataObject) -> None:
    whole = bytearray(SMALL)
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        if sparse.is_sparse(bytes(whole)):
            found = sparse.unpack(PATH, bytes(whole))
            assert {name: w.shape for name, w in found.weights.items()}
    except UserError:
        pass


_keep = torch.arange(600).reshape(20, 30) % 7 == 0
SMALL = sparse.pack(around({"a.weight": torch.randn(20, 30) * _keep + 0.0, "n": torch.tensor(3)}, {"a.weight": _keep}))


def test_parts_that_are_not_what_their_count_takes() -> None:
    streams = coding.pack_values(torch.randn(100))
    for count, given_streams in ((99, streams), (101, streams), (100, streams[:1]), (0, streams)):
        with pytest.raises(CodingError):
            coding.unpack_values(given_streams, count, torch.float32)
    for content in (b"", b"\x01\x02", b"\x02\x01\x02\x03\xff" + bytes(24)):
        with pytest.raises(CodingError):
            coding.unpack_values([coding.squeeze(content), streams[1]], 100, torch.float32)
    with pytest.raises(CodingError, match="neither true nor false"):
        coding.unpack_values([coding.squeeze(b"\x02")], 1, torch.bool)
