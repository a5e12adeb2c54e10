"""Effective weights against an obvious reference: walks over the graph of channels, and weights that are changed."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning import archs, masks
from pruning.masks import effective, on_a_path


class Chain(nn.Module):
    """Three layers on single pixels, so that a weight is an edge of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 1, bias=False)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.a(x)))
        return self.fc((y + torch.relu(self.b(y))).mean((2, 3)))  # beside a shortcut


def edges(seed: int, sparsity: float) -> masks.Mask:
    return masks.prune(Chain(), sparsity, "random", layers="conv+linear", seed=seed)


@given(seed=st.integers(0, 10**6), sparsity=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_weight_counts_if_and_only_if_a_walk_from_an_input_to_an_output_goes_over_it(
    seed: int, sparsity: float
) -> None:
    mask = edges(seed, sparsity)
    a, b, fc = (mask[f"{name}.weight"].reshape(mask[f"{name}.weight"].shape[:2]) for name in ("a", "b", "fc"))
    wanted = {name: torch.zeros_like(keep) for name, keep in mask.items()}
    for i, j, k, o in product(range(3), range(4), range(4), range(2)):
        if a[j, i] and fc[o, j]:  # over the shortcut
            wanted["a.weight"][j, i] = wanted["fc.weight"][o, j] = True
        if a[j, i] and b[k, j] and fc[o, k]:
            wanted["a.weight"][j, i] = wanted["b.weight"][k, j] = wanted["fc.weight"][o, k] = True
    found = on_a_path(Chain(), mask, (3, 1, 1))
    assert all(torch.equal(found[name], wanted[name]) for name in mask)


def test_what_is_on_no_path_changes_no_difference_between_images_and_an_effective_weight_can() -> None:
    torch.manual_seed(0)
    model = Chain().eval()
    mask = edges(1, 0.75)
    model.load_state_dict(masks.masked(model.state_dict(), mask))
    images = torch.rand(9, 3, 1, 1)
    useful = on_a_path(model, mask, (3, 1, 1))

    def differences() -> Tensor:
        out = model(images)
        return out - out[:1]

    with torch.no_grad():
        usual = differences()
        for name, keep in mask.items():
            weight = dict(model.named_parameters())[name]
            weight[keep & ~useful[name]] += 3.0
        assert sum(int((keep & ~useful[name]).sum()) for name, keep in mask.items()) > 0
        assert torch.allclose(differences(), usual, atol=1e-5)


@pytest.mark.parametrize("arch", archs.ARCHS)
def test_dense_networks_are_effective_but_for_nothing_and_deep_ones_do_not_overflow(arch: str) -> None:
    model = archs.build(arch, 10)
    mask = {name: torch.ones_like(model.get_parameter(name), dtype=torch.bool) for name in masks.prunable(model)}
    found = effective(model, mask, (3, 32, 32))
    assert found == {"effective_nonzero": sum(keep.numel() for keep in mask.values()), "empty_layers": []}


def test_an_empty_layer_empties_all_that_has_no_way_round_it() -> None:
    model = archs.build("vgg16", 10)
    mask = {
        name: torch.ones(dict(model.named_parameters())[name].shape, dtype=torch.bool) for name in masks.prunable(model)
    }
    cut = list(mask)[5]
    mask[cut].zero_()
    assert effective(model, mask) == {"effective_nonzero": 0, "empty_layers": [cut.removesuffix(".weight")]}
    assert model.training


def test_without_a_mask_the_convolutions_count() -> None:
    assert effective(Chain(), {}, (3, 1, 1)) == {"effective_nonzero": 12 + 16, "empty_layers": []}
