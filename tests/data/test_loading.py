import importlib.util
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning import data
from pruning.data import digits
from pruning.errors import UserError
from tests import reference

NOWHERE = Path("/nonexistent")


def toy(n: int = 7, height: int = 4, width: int = 4, pad: int = 0, flip: bool = False) -> data.Data:
    """Random images with ties; the first pixel of image i says i (n <= 256)."""
    stream = torch.Generator().manual_seed(n)
    images = torch.randint(0, 3, (n, height, width, 3), generator=stream, dtype=torch.uint8) * 127
    images[:, 0, 0] = torch.arange(n, dtype=torch.uint8)[:, None]
    split = data.Split(images, torch.arange(n) % 3)
    names = ("a", "b", "c")
    return data.Data(split, None, split, names, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), pad, flip)


def digits_data(**options: Any) -> data.Data:
    return data.load("digits", root=None, cache=NOWHERE, **options)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
@pytest.mark.parametrize("batch_size", [1, 8, 23, 64])
def test_batches_are_those_of_one_image_at_a_time(flip: bool, pad: int, size: tuple[int, int], batch_size: int) -> None:
    value = toy(23, *size, pad, flip)
    expected = reference.train_epoch(value, seed=3, epoch=2)
    batches = list(data.train_batches(value, batch_size=batch_size, seed=3, epoch=2))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    torch.testing.assert_close(images, torch.stack([image for image, _ in expected]), rtol=0, atol=1e-5)
    assert labels.tolist() == [int(label) for _, label in expected]


def test_augmentation_really_crops_and_flips() -> None:
    plain, moved = toy(200, 8, 8), toy(200, 8, 8, pad=1, flip=True)
    (before, _), (after, _) = (
        next(data.train_batches(value, batch_size=200, seed=0, epoch=0)) for value in (plain, moved)
    )
    same = (before == after).flatten(1).all(1)
    mirrored = (before == after.flip(3)).flatten(1).all(1)
    assert 2 < same.sum() < 30  # 1 in 9 offsets x 1 in 2 flips of 200, and the rare chance
    assert 2 < mirrored.sum() < 30


def test_batches_are_float32_and_channels_last() -> None:
    value = toy(9, 4, 6, pad=1, flip=True)
    for images, labels in [
        next(data.train_batches(value, batch_size=4, seed=0, epoch=0)),
        next(data.eval_batches(value, value.test, batch_size=3)),
    ]:
        assert images.shape == (3, 3, 4, 6)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64


@given(n=st.integers(1, 200), batch_size=st.integers(1, 70), seed=st.integers(0, 2**40), epoch=st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_every_image_once_in_even_batches(n: int, batch_size: int, seed: int, epoch: int) -> None:
    value = replace(toy(n, 1, 1), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    batches = list(data.train_batches(value, batch_size=batch_size, seed=seed, epoch=epoch))
    sizes = [len(labels) for _, labels in batches]
    assert len(batches) == data.steps_per_epoch(n, batch_size) == math.ceil(n / batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    seen = torch.cat([images for images, _ in batches])[:, 0, 0, 0].mul(255).round().long()
    assert sorted(seen.tolist()) == list(range(n))
    assert torch.equal(torch.cat([labels for _, labels in batches]), value.train.labels[seen])


@pytest.mark.parametrize("first", [0, 1, 3, 4, 9])
def test_resuming_in_mid_epoch_gives_the_same_bits(first: int) -> None:
    value = toy(30, 6, 6, pad=2, flip=True)
    whole = list(data.train_batches(value, batch_size=8, seed=1, epoch=5))
    rest = list(data.train_batches(value, batch_size=8, seed=1, epoch=5, first=first))
    assert len(rest) == max(0, len(whole) - first)
    for (images, labels), (images_again, labels_again) in zip(whole[first:], rest, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)


def test_batches_depend_on_seed_and_epoch_but_not_on_the_global_state() -> None:
    value = toy(50, 4, 4, pad=1)

    def epoch(seed: int, number: int) -> torch.Tensor:
        return torch.cat([x for x, _ in data.train_batches(value, batch_size=20, seed=seed, epoch=number)])

    base = epoch(0, 0)
    torch.rand(3)
    assert torch.equal(base, epoch(0, 0))
    assert not torch.equal(base, epoch(1, 0))
    assert not torch.equal(base, epoch(0, 1))


def test_drawing_batches_leaves_the_global_state_alone() -> None:
    state = torch.get_rng_state()
    list(data.train_batches(toy(9, pad=1, flip=True), batch_size=4, seed=0, epoch=0))
    assert torch.equal(state, torch.get_rng_state())


def test_flip_does_not_change_where_the_crops_are() -> None:
    for pad in (0, 2):
        one, two = (
            torch.cat([x for x, _ in data.train_batches(toy(40, 5, 5, pad, flip), batch_size=9, seed=0, epoch=0)])
            for flip in (False, True)
        )
        assert ((one == two) | (one == two.flip(3))).flatten(1).all(1).all()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_eval_batches_keep_order_and_pixels(batch_size: int) -> None:
    value = toy(7, 3, 5, pad=4, flip=True)
    batches = list(data.eval_batches(value, value.test, batch_size=batch_size))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    mean, std = torch.tensor(value.mean), torch.tensor(value.std)
    expected = ((value.test.images / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    assert torch.equal(labels, value.test.labels)
    assert max(len(part) for _, part in batches) == min(7, batch_size)


def test_no_images_no_batches() -> None:
    empty = data.Split(torch.zeros(0, 2, 2, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    value = replace(toy(), train=empty)
    assert list(data.train_batches(value, batch_size=4, seed=0, epoch=0)) == []
    assert list(data.eval_batches(value, empty)) == []


@pytest.mark.parametrize(("n", "size", "steps"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2), (50_000, 128, 391)])
def test_steps_per_epoch_rounds_up(n: int, size: int, steps: int) -> None:
    assert data.steps_per_epoch(n, size) == steps


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    value = digits_data()
    assert [len(value.train), len(value.test)] == [1437, 360]
    assert value.classes == tuple("0123456789")
    assert torch.bincount(value.test.labels).tolist() == [36] * 10
    images = torch.cat([value.train.images, value.test.images])
    assert images.shape == (1797, 32, 32, 3)
    assert images.dtype == torch.uint8
    assert torch.equal(images[..., 0], images[..., 2])
    small = images[:, ::4, ::4, 0]
    assert torch.equal(images[:, 3::4, 3::4, 0], small)
    ours = zip(small.flatten(1).tolist(), torch.cat([value.train.labels, value.test.labels]).tolist(), strict=True)
    theirs = zip((pixels * 255 / 16).round().astype(int).tolist(), labels.tolist(), strict=True)
    assert sorted(ours) == sorted(theirs)


def test_digits_constants_are_those_of_the_training_images() -> None:
    value = digits_data()
    pixels = value.train.images.double() / 255
    torch.testing.assert_close(pixels.mean((0, 1, 2)), torch.tensor(value.mean).double(), rtol=0, atol=5e-5)
    std = pixels.std((0, 1, 2), correction=0)
    torch.testing.assert_close(std, torch.tensor(value.std).double(), rtol=0, atol=5e-5)


def test_digits_do_not_need_the_slow_import() -> None:
    code = (
        "import sys; from pathlib import Path; from pruning import data;"
        "data.load('digits', root=None, cache=Path('/nonexistent'));"
        "print([m for m in ('sklearn', 'torchvision', 'PIL', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs scikit-learn"):
        digits.load()


def test_options_are_kept() -> None:
    value = digits_data(pad=2, flip=True)
    assert (value.pad, value.flip, value.val) == (2, True, None)
    value = digits_data()
    assert (value.pad, value.flip) == (4, False)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.99])
def test_validation_is_balanced_fixed_and_apart(fraction: float) -> None:
    whole, value, again = digits_data(), digits_data(val_fraction=fraction), digits_data(val_fraction=fraction)
    assert value.val is not None
    assert again.val is not None
    sizes = torch.bincount(whole.train.labels).tolist()
    assert torch.bincount(value.val.labels).tolist() == [round(fraction * size) for size in sizes]
    assert torch.equal(value.val.images, again.val.images)
    assert torch.equal(value.test.images, whole.test.images)
    rows = [
        sorted(zip(split.images.flatten(1).tolist(), split.labels.tolist(), strict=True))
        for split in (value.train, value.val, whole.train)
    ]
    assert sorted(rows[0] + rows[1]) == rows[2]
    assert value.mean == whole.mean


def test_no_validation_unless_asked() -> None:
    assert digits_data(val_fraction=0).val is None


@pytest.mark.parametrize("fraction", [math.nan, -0.1, 1, 1.0, 10, math.inf, "0.1", None, True])
def test_a_wrong_val_fraction_is_refused(fraction: Any) -> None:
    with pytest.raises(UserError, match=r"dataset\.val_fraction must be in \[0, 1\), got"):
        digits_data(val_fraction=fraction)


def test_a_percentage_is_recognised() -> None:
    with pytest.raises(UserError, match=r"got 10; did you mean 0\.1\?"):
        digits_data(val_fraction=10)


def test_val_fraction_must_leave_something_on_both_sides() -> None:
    with pytest.raises(UserError, match=r"holds out all 1.. training images of class '0'"):
        digits_data(val_fraction=0.999)
    with pytest.raises(UserError, match="holds out no image at all"):
        digits_data(val_fraction=0.0001)


@pytest.mark.parametrize("pad", [-1, 1.5, "4", None, True])
def test_a_wrong_pad_is_refused(pad: Any) -> None:
    with pytest.raises(UserError, match=r"dataset\.pad must be"):
        digits_data(pad=pad)


@pytest.mark.parametrize("flip", [0, 1, "true", None])
def test_a_wrong_flip_is_refused(flip: Any) -> None:
    with pytest.raises(UserError, match=r"dataset\.flip must be"):
        digits_data(flip=flip)


def test_names_and_info() -> None:
    assert data.NAMES == ("digits", "cifar10", "cifar100", "image_folder")
    classes = {"digits": 10, "cifar10": 10, "cifar100": 100}
    for name, count in classes.items():
        assert data.info(name, root=None, cache=NOWHERE) == data.Info(count, None)


@pytest.mark.parametrize("call", [data.info, data.load])
def test_a_typo_is_recognised(call: Any) -> None:
    with pytest.raises(UserError, match=r"dataset must be one of .* did you mean cifar10\?"):
        call("cifar-10", root=None, cache=NOWHERE)


def test_a_split_moves() -> None:
    split = toy().train.to("meta")
    assert split.images.device.type == split.labels.device.type == "meta"
    assert len(split) == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_are_those_of_the_cpu_and_never_wait() -> None:
    value = toy(200, 8, 8, pad=2, flip=True)
    there = replace(value, train=value.train.to("cuda"), test=value.test.to("cuda"))
    expected = list(data.train_batches(value, batch_size=16, seed=0, epoch=0))
    batches = data.train_batches(there, batch_size=16, seed=0, epoch=0)
    got = [next(batches)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        got += list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (images, labels), (images_there, labels_there) in zip(expected, got, strict=True):
        assert images_there.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(images, images_there.cpu(), rtol=0, atol=1e-5)
        assert torch.equal(labels, labels_there.cpu())
