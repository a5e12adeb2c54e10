from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning import masks
from pruning.errors import UserError
from pruning.masks.scopes import Groups, allocate
from tests import reference


@st.composite
def bins(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=7))
    least = [draw(st.just(0) | st.integers(0, size)) for size in sizes]
    return draw(st.integers(sum(least), sum(sizes))), sizes, least


@settings(deadline=None, max_examples=500)
@given(bins())
def test_allocate_is_the_obvious_one(case: tuple[int, list[int], list[int]]) -> None:
    total, sizes, least = case
    goal = allocate(total, sizes, least)
    assert sum(goal) == total
    assert all(low <= part <= size for low, part, size in zip(least, goal, sizes, strict=True))
    assert goal == reference.allocate(total, sizes, least)


def test_allocate_by_hand() -> None:
    assert allocate(5, [4, 4], [0, 0]) == [3, 2]  # equal remainders: the earlier
    assert allocate(5, [1, 9], [0, 0]) == [1, 4]  # 0.5 and 4.5
    assert allocate(6, [10, 10, 10], [5, 0, 0]) == [5, 1, 0]
    assert allocate(2**60 + 1, [2**60] * 2, [0, 0]) == [2**59 + 1, 2**59]  # beyond the integers of a float


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.floats(0, 1))
def test_layer_takes_the_same_fraction_of_each_tensor(sizes: list[int], sparsity: float) -> None:
    mask = masks.keep_top({str(i): torch.zeros(size) for i, size in enumerate(sizes)}, sparsity, "layer")
    pruned = [int((~keep).sum()) for keep in mask.values()]
    assert sum(pruned) == round(sparsity * sum(sizes))
    rate = sum(pruned) / sum(sizes)
    assert all(abs(count - rate * size) < 1 for count, size in zip(pruned, sizes, strict=True))


SCORES = {"a": torch.arange(4.0), "b": torch.arange(10.0, 14), "c": torch.arange(20.0, 24).reshape(2, 2)}


def test_a_scope_may_be_a_function_with_groups_of_its_own() -> None:
    seen: list[object] = []

    def ends(shapes: Mapping[str, torch.Size], total: int, pruned: Mapping[str, int]) -> Groups:
        seen.extend([dict(shapes), total, dict(pruned)])
        return {("b",): total - 5, ("c", "a"): 5}

    mask = masks.keep_top(SCORES, 0.5, ends, {"a": torch.tensor([True, False, True, True])})
    assert seen == [{name: score.shape for name, score in SCORES.items()}, 6, {"a": 1, "b": 0, "c": 0}]
    assert list(mask) == list(SCORES)
    pruned = {name: (~keep).nonzero().tolist() for name, keep in mask.items()}
    assert pruned == {"a": [[0], [1], [2], [3]], "b": [[0]], "c": [[0, 0]]}


def test_a_scope_whose_counts_are_impossible_is_a_value_error() -> None:
    cases: list[tuple[Groups, str]] = [
        ({("a", "b", "c"): 5}, "give 6 to prune in all"),
        ({("a",): 3, ("b",): 3}, "name each weight once"),
        ({("a", "b", "c"): 3, ("a",): 3}, "name each weight once"),
        ({("a", "b", "c"): 6, ("d",): 0}, "name each weight once"),
        ({("a",): 5, ("b", "c"): 1}, "asks for 5 pruned of 4 weights"),
        ({("a",): 0, ("b", "c"): 6}, "asks for 0 pruned of 4 weights, 1 are already"),
    ]
    for groups, text in cases:
        with pytest.raises(ValueError, match=text) as caught:
            masks.keep_top(SCORES, 0.5, lambda *_, given=groups: given, {"a": torch.tensor([True, False, True, True])})
        assert type(caught.value) is ValueError  # a mistake of a program, not of its user


@st.composite
def networks(draw: st.DrawFn) -> tuple[dict[str, torch.Size], int]:
    dimensions = st.lists(st.integers(1, 9), min_size=2, max_size=4).filter(lambda some: len(some) != 3)
    shapes = {str(i): torch.Size(draw(dimensions)) for i in range(draw(st.integers(1, 6)))}
    return shapes, draw(st.integers(0, sum(shape.numel() for shape in shapes.values())))


@settings(deadline=None, max_examples=200)
@given(networks())
def test_erk_is_the_closed_form(case: tuple[dict[str, torch.Size], int]) -> None:
    shapes, total = case
    sizes = [shape.numel() for shape in shapes.values()]
    groups = masks.SCOPES["erk"](shapes, total, dict.fromkeys(shapes, 0))
    kept = [size - groups[(name,)] for name, size in zip(shapes, sizes, strict=True)]
    assert sum(kept) == sum(sizes) - total
    wanted = reference.erk([*shapes.values()], sum(sizes) - total)
    assert all(abs(have - want) <= 1 + 1e-6 for have, want in zip(kept, wanted, strict=True))


def test_erk_never_asks_for_a_pruned_weight_again() -> None:
    shapes = {"a": torch.Size([4, 4]), "b": torch.Size([10, 10])}
    assert masks.SCOPES["erk"](shapes, 60, {"a": 12, "b": 0}) == {("a",): 12, ("b",): 48}


def test_uniform_plus_spares_the_first_convolution_and_a_fifth_of_the_last_layer() -> None:
    shapes = {"conv1": torch.Size([4, 3, 3, 3]), "conv2": torch.Size([10, 10, 1, 1]), "fc": torch.Size([5, 10])}
    scope, none = masks.SCOPES["uniform_plus"], dict.fromkeys(shapes, 0)
    assert scope(shapes, 75, none) == {("conv1",): 0, ("conv2",): 50, ("fc",): 25}
    assert scope(shapes, 138, none) == {("conv1",): 0, ("conv2",): 98, ("fc",): 40}
    with pytest.raises(UserError, match=r"^scope=uniform_plus can prune 0.5426 at most"):
        scope(shapes, 141, none)
    assert scope(shapes, 75, {"conv1": 7, "conv2": 0, "fc": 45}) == {("conv1",): 7, ("conv2",): 23, ("fc",): 45}


@settings(deadline=None, max_examples=200)
@given(bins(), st.data())
def test_allocate_within_limits_on_both_sides(case: tuple[int, list[int], list[int]], data: st.DataObject) -> None:
    _, weights, least = case
    most = [low + data.draw(st.integers(0, 40)) for low in least]
    total = data.draw(st.integers(sum(least), sum(most)))
    goal = allocate(total, weights, least, most)
    assert sum(goal) == total
    assert all(low <= part <= high for low, part, high in zip(least, goal, most, strict=True))
    rates = [
        (part / weight, 1 / weight)
        for part, weight, a, b in zip(goal, weights, least, most, strict=True)
        if a < part < b
    ]
    assert all(abs(one - other) <= slack + more for one, slack in rates for other, more in rates)
