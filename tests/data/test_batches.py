import math
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.data import Batch, Data, Split, eval_batches, steps_per_epoch, train_batches
from pruning.training.graphs import WAITS, warned
from tests import reference


def toy(n: int = 7, height: int = 4, width: int = 4, pad: int = 0, flip: bool = False) -> Data:
    """Random images with ties; the first pixel of image i says i (n <= 256)."""
    stream = torch.Generator().manual_seed(n)
    images = torch.randint(0, 3, (n, height, width, 3), generator=stream, dtype=torch.uint8) * 127
    images[:, 0, 0] = torch.arange(n, dtype=torch.uint8)[:, None]
    split = Split(images, torch.arange(n) % 3)
    return Data(split, None, split, ("a", "b", "c"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), pad, flip)


def epoch(data: Data, seed: int = 0, number: int = 0, batch_size: int = 20) -> torch.Tensor:
    """Return the images of one epoch."""
    return torch.cat([x for x, _ in train_batches(data, batch_size=batch_size, seed=seed, epoch=number)])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize(("height", "width", "batch_size"), [(8, 8, 8), (5, 7, 1), (5, 7, 23), (7, 5, 64)])
def test_batches_are_those_of_one_image_at_a_time(
    flip: bool, pad: int, height: int, width: int, batch_size: int
) -> None:
    value = toy(23, height, width, pad, flip)
    expected = reference.train_epoch(value, seed=3, epoch=2)
    batches = list(train_batches(value, batch_size=batch_size, seed=3, epoch=2))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    torch.testing.assert_close(images, torch.stack([image for image, _ in expected]), rtol=0, atol=1e-5)
    assert (labels.dtype, labels.tolist()) == (torch.int64, [int(label) for _, label in expected])
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part, _ in batches)


def test_augmentation_really_crops_and_flips() -> None:
    before, after = (epoch(value, batch_size=200) for value in (toy(200, 8, 8), toy(200, 8, 8, pad=1, flip=True)))
    same = (before == after).flatten(1).all(1)
    mirrored = (before == after.flip(3)).flatten(1).all(1)
    assert 2 < same.sum() < 30  # 1 in 9 offsets x 1 in 2 flips of 200, and the rare chance
    assert 2 < mirrored.sum() < 30


@pytest.mark.parametrize("held", [0, 2])
def test_images_that_stay_where_they_are_give_the_same_batches(held: int) -> None:
    value = toy(23, 5, 7, pad=1, flip=True)
    there = replace(value, train=value.train.in_place(), test=value.test.in_place())
    if held:
        streams = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
        value, there = (
            replace(data, train=rest, val=val)
            for data, stream in zip((value, there), streams, strict=True)
            for rest, val in [data.train.hold_out([held] * 3, stream)]
        )
        assert value.val
        assert there.val
        same(list(eval_batches(value, value.val)), list(eval_batches(there, there.val)))
    assert there.train.to("meta").images.device.type == "cpu"
    for first in (0, 2, 100):
        options: dict[str, Any] = {"batch_size": 4, "seed": 1, "epoch": 2, "first": first}
        same(list(train_batches(value, **options)), list(train_batches(there, **options)))
    same(list(eval_batches(value, value.test, batch_size=7)), list(eval_batches(there, there.test, batch_size=7)))
    next(stopped := train_batches(there, batch_size=1, seed=0, epoch=0))
    del stopped
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@given(n=st.integers(1, 200), batch_size=st.integers(1, 70), seed=st.integers(0, 2**40), number=st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_every_image_once_in_even_batches(n: int, batch_size: int, seed: int, number: int) -> None:
    value = replace(toy(n, 1, 1), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    batches = list(train_batches(value, batch_size=batch_size, seed=seed, epoch=number))
    sizes = [len(labels) for _, labels in batches]
    assert len(batches) == steps_per_epoch(n, batch_size) == math.ceil(n / batch_size)
    assert max(sizes) <= min(batch_size, 1 + min(sizes))
    seen = torch.cat([images for images, _ in batches])[:, 0, 0, 0].mul(255).round().long()
    assert sorted(seen.tolist()) == list(range(n))
    assert torch.equal(torch.cat([labels for _, labels in batches]), value.train.labels[seen])


def test_resuming_in_mid_epoch_gives_the_same_bits() -> None:
    value = toy(30, 6, 6, pad=2, flip=True)
    whole = list(train_batches(value, batch_size=8, seed=1, epoch=5))
    for first in (0, 1, 3, 4, 9):
        rest = list(train_batches(value, batch_size=8, seed=1, epoch=5, first=first))
        for one, other in zip(whole[first:], rest, strict=True):
            assert all(map(torch.equal, one, other))


def test_batches_depend_on_seed_and_epoch_only_and_leave_the_global_state_alone() -> None:
    value, state = toy(50, 4, 4, pad=1, flip=True), torch.get_rng_state()
    base = epoch(value, 0, 0)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(base, epoch(value, 0, 0))
    assert not torch.equal(base, epoch(value, 1, 0))
    assert not torch.equal(base, epoch(value, 0, 1))


def test_eval_batches_keep_order_and_pixels() -> None:
    value = toy(7, 3, 5, pad=4, flip=True)
    mean, std = torch.tensor(value.mean), torch.tensor(value.std)
    expected = ((value.test.images / 255 - mean) / std).permute(0, 3, 1, 2)
    for batch_size in (1, 4, 7, 100):
        batches = list(eval_batches(value, value.test, batch_size=batch_size))
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
        assert torch.equal(labels, value.test.labels)
        assert max(len(part) for _, part in batches) == min(7, batch_size)
        assert all(part.is_contiguous(memory_format=torch.channels_last) for part, _ in batches)


def test_no_images_no_batches() -> None:
    empty = Split(torch.zeros(0, 2, 2, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    value = replace(toy(), train=empty)
    assert [*train_batches(value, batch_size=4, seed=0, epoch=0), *eval_batches(value, empty)] == []
    assert steps_per_epoch(0, 4) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_are_those_of_the_cpu_and_never_wait() -> None:
    value = toy(200, 8, 8, pad=2, flip=True)
    there = replace(value, train=value.train.to("cuda"), test=value.test.to("cuda"))
    expected = list(train_batches(value, batch_size=16, seed=0, epoch=0))
    batches = train_batches(there, batch_size=16, seed=0, epoch=0)
    got = [next(batches)]
    with warned() as said:
        got += list(batches)
    assert WAITS not in said  # torch also warns that it may not warn of everything
    for (images, labels), (images_there, labels_there) in zip(expected, got, strict=True):
        assert images_there.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(images, images_there.cpu(), rtol=0, atol=1e-5)
        assert torch.equal(labels, labels_there.cpu())
