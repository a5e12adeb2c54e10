"""Controls keep what makes the comparison fair: the number of weights of each layer, and what was pruned before."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning import masks
from pruning.masks.controls import inverted, shuffled
from tests.helpers import equal


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))


@settings(deadline=None, max_examples=30)
@given(first=st.floats(0, 0.6), more=st.floats(0, 0.4), seed=st.integers(0, 99))
def test_shuffled_keeps_each_layers_count_and_nothing_that_was_pruned_returns(
    first: float, more: float, seed: int
) -> None:
    before = masks.prune(net(), first)
    found = masks.prune(net(), first + more, previous=before)
    mask = shuffled(found, before, seed)
    assert list(mask) == list(found)
    assert all(int(mask[name].sum()) == int(found[name].sum()) for name in found)
    assert not any((mask[name] & ~before[name]).any() for name in found)
    assert equal(mask, shuffled(found, before, seed))


def test_shuffled_is_another_mask_for_each_seed_and_uniform_over_the_places() -> None:
    found = masks.prune(net(), 0.5)
    drawn = [shuffled(found, {}, seed) for seed in range(60)]
    assert not equal(drawn[0], found)
    assert not equal(drawn[0], drawn[1])
    share = torch.stack([mask["2.weight"].float() for mask in drawn]).mean(0)
    kept = float(found["2.weight"].float().mean())
    assert abs(float(share.mean()) - kept) < 1e-6
    assert float((share - kept).abs().max()) < 6 * (kept * (1 - kept) / 60) ** 0.5


def test_inverted_prunes_the_largest() -> None:
    model = net()
    mask = masks.prune(model, 0.3, inverted(masks.CRITERIA["magnitude"]))
    sizes = {name: model.get_parameter(name).detach().abs() for name in mask}
    gone = torch.cat([sizes[name][~keep] for name, keep in mask.items()])
    kept = torch.cat([sizes[name][keep] for name, keep in mask.items()])
    assert gone.min() >= kept.max()
    assert len(gone) == round(0.3 * (len(gone) + len(kept)))
