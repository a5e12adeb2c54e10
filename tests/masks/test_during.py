"""Masks that change while a network trains: exact counts at every change, and the curves of the papers."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from pruning import masks
from pruning.masks import DropAndGrow, Gradual, Mask, at_random, by_gradient, sparsity
from tests.helpers import equal


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))


def with_gradients(mask: Mask) -> nn.Sequential:
    model = net()
    model.load_state_dict(masks.masked(model.state_dict(), mask))
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    return model


def gradual(begin: float, until: float, interval: int, initial: float = 0.0) -> Gradual:
    return Gradual(
        prune=lambda model, sparsity, mask: masks.prune(model, sparsity, previous=mask),
        sparsity=0.9,
        initial=initial,
        begin=begin,
        until=until,
        interval=interval,
    )


@pytest.mark.parametrize(("begin", "until", "interval"), [(0, 1, 1), (0.25, 0.75, 7), (0.5, 0.5, 10), (0.3, 1.0, 1000)])
def test_gradual_follows_the_cubic_and_ends_exactly(begin: float, until: float, interval: int) -> None:
    model, steps = net(), 80
    mask: Mask = {}
    updates = gradual(begin, until, interval)
    first, last = round(begin * steps), min(round(until * steps), steps - 1)
    at: dict[int, float] = {}
    for step in range(steps):
        if (found := updates(step, steps, model, mask)) is not None:
            assert not any((found[name] & ~mask[name]).any() for name in mask)  # nested
            mask = found
            at[step] = sparsity(mask)
    assert [*at] == [*range(first + interval, last, interval), last]
    size = sum(keep.numel() for keep in mask.values())
    for step, pruned in at.items():
        wanted = 0.9 if step == last else 0.9 * (1 - (1 - (step - first) / (last - first)) ** 3)
        assert round(pruned * size) == round(wanted * size)


def test_gradual_goes_on_from_what_is_pruned_already_and_reaches_its_end_in_a_single_step() -> None:
    model = net()
    half = masks.prune(model, 0.5)
    updates = gradual(0, 1, 1, initial=sparsity(half))
    grown = [sparsity(updates(step, 5, model, half) or half) for step in range(5)]
    assert all(a < b for a, b in pairwise(grown))
    assert sparsity(updates(0, 1, model, {}) or {}) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("growth", [by_gradient, at_random], ids=["rigl", "set"])
def test_as_many_come_as_go_in_each_layer(growth: masks.Growth) -> None:
    mask = masks.prune(net(), 0.7)
    model = with_gradients(mask)
    updates = DropAndGrow(growth=growth, seed=3, interval=10, until=0.5)
    found = {step: updates(step, 100, model, mask) for step in range(100)}
    assert [step for step, new in found.items() if new] == [10, 20, 30, 40]
    for new in filter(None, found.values()):
        assert [int(keep.sum()) for keep in new.values()] == [int(keep.sum()) for keep in mask.values()]
    first, again = found[10], updates(10, 100, model, mask)
    assert first
    assert again
    assert equal(again, first)
    assert not equal(first, mask)
    dense = {name: torch.ones_like(keep) for name, keep in mask.items()}
    whole = updates(10, 100, with_gradients(dense), dense)
    assert whole is not None
    assert equal(whole, dense)


def test_rigl_drops_the_smallest_and_grows_the_largest_gradients() -> None:
    """Against the sentence of the paper, one weight after another."""
    mask = masks.prune(net(), 0.7)
    model = with_gradients(mask)
    new = DropAndGrow(growth=by_gradient, seed=0, interval=10, until=0.5, fraction=0.5)(20, 100, model, mask)
    assert new
    share = 0.5 / 2 * (1 + torch.cos(torch.tensor(torch.pi * 20 / 50, dtype=torch.float64)).item())
    for name, keep in mask.items():
        weight = model.get_parameter(name)
        alive = [i for i, kept in enumerate(keep.flatten().tolist()) if kept]
        moved = int(share * len(alive))
        assert moved
        sizes, slopes = weight.detach().abs().flatten().tolist(), _gradient(weight).abs().flatten().tolist()
        left = sorted(alive, key=lambda i: sizes[i])[moved:]
        others = sorted(set(range(len(sizes))) - set(left), key=lambda i: -slopes[i])[:moved]
        assert sorted(new[name].flatten().nonzero().flatten().tolist()) == sorted([*left, *others])


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def test_set_grows_anywhere_and_differently_at_each_step() -> None:
    mask = masks.prune(net(), 0.7)
    model = with_gradients(mask)
    updates = DropAndGrow(growth=at_random, seed=0, interval=1, until=1.0, fraction=1.0)
    found = [updates(step, 10**6, model, mask) for step in (1, 2)]
    assert found[0] is not None
    assert found[1] is not None
    assert not equal(found[0], found[1])


def test_growing_by_gradient_needs_one() -> None:
    mask = masks.prune(net(), 0.5)
    with pytest.raises(ValueError, match="without a gradient"):
        DropAndGrow(growth=by_gradient, seed=0, interval=1)(1, 10, net(), mask)
