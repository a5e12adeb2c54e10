import copy
import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning import archs, masks
from pruning.errors import UserError
from pruning.masks import SCOPES, Criterion, Mask, Scores, Scoring, keep_top, sparsities
from pruning.masks.lowest import CHUNK, SAMPLE, drop_lowest
from tests import reference
from tests.helpers import equal

INF = math.inf
PLAIN = ("global", "layer")  # the others are tested by their shares, in test_scopes
Problem = tuple[dict[str, Tensor], float, str, Mask]


@st.composite
def scored(draw: st.DrawFn) -> dict[str, Tensor]:
    """One to four layers of scores, most of them tied."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4))
    odd = st.sampled_from([0.0, -0.0, INF, -INF, 1.0])
    value = draw(st.sampled_from([st.integers(0, 3).map(float), st.floats(-1, 1, width=32), odd]))
    sizes = [math.prod(shape) for shape in shapes]
    values = [draw(st.lists(value, min_size=size, max_size=size)) for size in sizes]
    return {f"{i}.weight": torch.tensor(v).reshape(s) for i, (s, v) in enumerate(zip(shapes, values, strict=True))}


@st.composite
def problem(draw: st.DrawFn) -> Problem:
    scores = draw(scored())
    total = sum(score.numel() for score in scores.values())
    edge = st.integers(0, total).map(lambda k: k / total)
    sparsity = draw(st.sampled_from([0.0, 1.0, 0.5]) | edge | st.floats(0, 1))
    previous = {}
    for name, score in scores.items():
        if draw(st.booleans()):
            keep = draw(st.lists(st.booleans(), min_size=score.numel(), max_size=score.numel()))
            previous[name] = torch.tensor(keep).reshape(score.shape)
    return scores, sparsity, draw(st.sampled_from(PLAIN)), previous


def pruned(mask: Mapping[str, Tensor]) -> int:
    return sum(int((~keep).sum()) for keep in mask.values())


def nested(inner: Mapping[str, Tensor], outer: Mapping[str, Tensor]) -> bool:
    return not any((inner[name] & ~keep).any() for name, keep in outer.items())


@settings(deadline=None, max_examples=400)
@given(problem())
def test_keep_top_is_the_obvious_one(case: Problem) -> None:
    scores, sparsity, scope, previous = case
    total = round(sparsity * sum(score.numel() for score in scores.values()))
    if total < pruned(previous):
        with pytest.raises(UserError, match=r"a pruned weight never returns") as caught:
            keep_top(scores, sparsity, scope, previous)
        assert "\n" not in str(caught.value)
        return
    before = copy.deepcopy(previous)
    mask = keep_top(scores, sparsity, scope, previous)
    assert equal(mask, reference.keep_top(scores, sparsity, scope, previous))
    assert all(keep.dtype == torch.bool and keep.shape == scores[name].shape for name, keep in mask.items())
    assert (pruned(mask), nested(mask, previous), equal(previous, before)) == (total, True, True)


@settings(deadline=None)
@given(scored(), st.lists(st.floats(0, 1), min_size=2, max_size=4).map(sorted), st.sampled_from([*PLAIN, "erk"]))
def test_pruning_again_and_again_nests_and_counts(scores: Scores, levels: list[float], scope: str) -> None:
    mask: Mask = {}
    total = sum(score.numel() for score in scores.values())
    for sparsity in levels:
        last, mask = mask, keep_top(scores, sparsity, scope, mask)
        assert nested(mask, last)
        assert masks.sparsity(mask) == round(sparsity * total) / total
    if scope == "global":  # with the same scores the way does not matter
        assert equal(mask, keep_top(scores, levels[-1]))


def test_ties_go_by_position() -> None:
    """Trap: `>` at a threshold prunes k + 1, all of them on ties, and crashes at 1.0."""
    for scope, count in itertools.product([*PLAIN, "erk"], range(11)):
        mask = keep_top({"w": torch.full((2, 5), 0.25)}, count / 10, scope)
        assert mask["w"].flatten().tolist() == [True] * (10 - count) + [False] * count


def test_a_half_rounds_as_python_rounds() -> None:
    for sparsity, count in ((0.25, 2), (0.35, 4), (0.05, 0), (0.15, 2)):
        assert pruned(keep_top({"w": torch.arange(10.0)}, sparsity)) == round(sparsity * 10) == count


def test_keep_top_counts_above_the_integers_of_float32() -> None:
    size = 2**24 + 3
    mask = keep_top({"w": torch.zeros(size)}, (size - 2) / size)
    assert mask["w"].nonzero().flatten().tolist() == [0, 1]


HALF = {"a": torch.tensor([True, False]), "b": torch.tensor([False, True])}


def test_what_keep_top_refuses() -> None:
    cases: list[tuple[dict[str, Any], str | None, str]] = [
        ({"sparsity": 30}, "sparsity", r"sparsity must be in \[0, 1\], got 30"),
        ({"sparsity": math.nan}, "sparsity", r"sparsity must be in \[0, 1\], got nan"),
        ({"sparsity": 0.3, "previous": HALF}, "sparsity", "sparsity=0.3 is below the sparsity 0.5000 that the"),
        (
            {"scope": "globl"},
            "scope",
            r"scope must be one of .*, got 'globl'; did you mean global\?",
        ),
        ({"scores": {"a": torch.ones(2), "b": torch.tensor([1, math.nan])}}, None, "the scores of b contain nan: "),
    ]
    usual: dict[str, Any] = {"scores": {"a": torch.ones(2), "b": torch.ones(2)}, "sparsity": 0.5}
    for change, parameter, text in cases:
        with pytest.raises(UserError, match=f"^{text}") as caught:
            keep_top(**(usual | change))
        assert caught.value.parameter == parameter


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 3))


def magnitudes(model: nn.Module, layers: str = "conv") -> dict[str, Tensor]:
    return {name: model.get_parameter(name).detach().abs() for name in masks.prunable(model, layers)}


@pytest.mark.parametrize("layers", masks.KINDS)
@pytest.mark.parametrize("scope", PLAIN)
def test_prune_is_the_criterion_then_keep_top(scope: str, layers: str) -> None:
    model = net()
    first = masks.prune(model, 0.3, scope=scope, layers=layers)
    assert equal(first, reference.keep_top(magnitudes(model, layers), 0.3, scope))
    again = masks.prune(model, 0.8, scope=SCOPES[scope], layers=layers, previous=first)
    assert equal(again, reference.keep_top(magnitudes(model, layers), 0.8, scope, first))


def test_a_criterion_sees_a_copy_in_evaluation_mode_the_batches_and_the_pruned_weights_as_zero() -> None:
    model, batch = net(), (torch.ones(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
    previous = masks.prune(model, 0.5)
    seen: list[Scoring] = []

    def score(given: Scoring) -> Scores:
        assert not given.model.training
        assert all(given.weights[name] is given.model.get_parameter(name) for name in given.weights)
        seen.append(given)
        return {name: weight.clone() for name, weight in given.weights.items()}

    masks.prune(model, 0.8, Criterion(score), previous=previous, batches=[batch])
    assert equal(seen[0].model.state_dict(), masks.masked(model.state_dict(), previous))
    assert (list(seen[0].weights), list(seen[0].batches)) == (masks.prunable(model), [batch])


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_criterion_may_train_its_copy(rounds: int) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())

    def score(given: Scoring) -> Scores:
        given.model.train()(torch.randn(4, 3, 8, 8, generator=given.generator)).square().sum().backward()
        scores = {name: weight.grad.abs() for name, weight in given.weights.items() if weight.grad is not None}
        for weight in given.model.parameters():
            nn.init.zeros_(weight)
        return scores

    mask = masks.prune(model, 0.5, Criterion(score, rounds))
    assert pruned(mask) == round(0.5 * (3 * 4 + 4 * 2) * 9)
    assert equal(model.state_dict(), before)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_rounds_prune_geometrically_and_nest_and_the_count_is_exact() -> None:
    model = net()
    previous = masks.prune(model, 0.2)
    seen: list[Mask] = []

    def score(given: Scoring) -> Scores:
        seen.append({name: weight != 0 for name, weight in given.weights.items()})
        return {name: torch.rand(weight.shape, generator=given.generator) for name, weight in given.weights.items()}

    final = masks.prune(model, 0.9, Criterion(score, rounds=5), previous=previous)
    start = masks.sparsity(previous)
    wanted = [start, *sparsities(0.9, count=5, start=start)]
    assert equal(seen[0], previous)
    assert [pruned(mask) for mask in [*seen, final]] == [round(level * 180) for level in wanted]
    assert all(nested(later, earlier) for earlier, later in zip(seen, [*seen[1:], final], strict=True))


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_prune_refuses(rounds: int) -> None:
    for sparsity in (30, -0.1):
        with pytest.raises(UserError, match=r"^sparsity must be in \[0, 1\], got "):
            masks.prune(net(), sparsity, Criterion(lambda given: dict(given.weights), rounds))
    for choice in ("criterion", "layers"):
        with pytest.raises(UserError, match=f"^{choice} must be one of .*, got 'magnitud'") as caught:
            masks.prune(net(), 0.5, **{choice: "magnitud"})  # type: ignore[arg-type]
        assert caught.value.parameter == choice
    with pytest.raises(UserError, match=r"^sparsity=0.8 is below"):
        masks.prune(net(), 0.8, previous=masks.prune(net(), 0.9))
    with pytest.raises(UserError, match=r"^layers=conv: the network has no such layers"):
        masks.prune(nn.Linear(2, 2), 0.5)
    with pytest.raises(ValueError, match=r"score of shape \[4, 3, 3, 3\] for 0.weight, got none"):
        masks.prune(net(), 0.5, Criterion(lambda _: {}, rounds))
    with pytest.raises(ValueError, match=r"for 0.weight, got shape \[\]"):
        masks.prune(net(), 0.5, Criterion(lambda given: {name: torch.ones(()) for name in given.weights}, rounds))


def test_where_nothing_goes_no_criterion_is_asked() -> None:
    """Criterion and scope are no part of the id of such a step, so they must not decide whether it fails."""

    def broken(_given: Scoring) -> Scores:
        raise AssertionError("asked")

    network = archs.build("resnet20", 3)
    first = masks.prune(network, 0.0, Criterion(broken))
    assert all(bool(keep.all()) for keep in first.values())
    half = masks.prune(network, 0.5)
    again = masks.prune(network, 0.5, Criterion(broken), previous=half)
    assert list(first) == list(half) == list(again)
    assert all(torch.equal(again[name], half[name]) for name in half)


@pytest.mark.parametrize("case", ["random", "sorted", "reversed", "few values", "one value", "periodic", "infinite"])
def test_of_many_the_lowest_are_found_by_a_sample_whatever_it_says(case: str) -> None:
    n, draw = 2 * CHUNK + 77, torch.Generator().manual_seed(0)
    values = torch.randn(n, generator=draw)
    made = {
        "random": values,
        "sorted": values.sort().values,
        "reversed": values.sort(descending=True).values,
        "few values": values.round(),
        "one value": torch.zeros(n),
        "periodic": torch.where(torch.arange(n) % (n // SAMPLE) == 0, 1000.0 + values, values),  # the sample sees 1000
        "infinite": torch.where(values > 0, torch.inf, -torch.inf),
    }[case]
    lowest = n - 1 - made.flip(0).argsort(stable=True)  # of equal ones the last first
    gone = torch.arange(n) % (n // SAMPLE) < 2  # the sample meets only what is gone already
    others = lowest[~gone[lowest]]
    ends = [SAMPLE + 5, n - 3]  # of layers that have other lengths than what is looked at together
    for count in (0, 1, 2, n // 3, n // 2, n - 1, n):
        kept = torch.ones(n, dtype=torch.bool)
        kept[lowest[:count]] = False
        mask = keep_top({str(i): part for i, part in enumerate(made.tensor_split(ends))}, count / n)
        assert torch.equal(torch.cat([*mask.values()]), kept), count
        if count >= (dead := int(gone.count_nonzero())):
            kept = ~gone
            kept[others[: count - dead]] = False
            assert torch.equal(keep_top({"a": made}, count / n, previous={"a": ~gone})["a"], kept), count


@pytest.mark.parametrize("n", [10, 2 * CHUNK + 77])
@pytest.mark.parametrize("share", [0.01, 0.6])
def test_what_is_not_a_number_goes_first(n: int, share: float) -> None:
    """As while a sparse training diverges, which says so at the end of the epoch."""
    scores = torch.randn(n, generator=torch.Generator().manual_seed(0))
    scores[: max(1, int(share * n))] = math.nan
    as_if = torch.where(scores.isnan(), -INF, scores)
    for alive in (None, torch.arange(n) % 3 > 0):
        dead = 0 if alive is None else n - int(alive.sum())
        for count in (dead, dead + 1, (n + dead) // 2, n - 1, n):
            assert torch.equal(*(drop_lowest([each], [alive], count)[0] for each in (scores, as_if)))


def test_scores_of_any_type_and_order_in_memory() -> None:
    made = torch.randn(40, 30, 3, 3, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32):
        scores = {"a": (100 * made).to(dtype)}
        expected = reference.keep_top(scores, 0.3)
        assert equal(keep_top(scores, 0.3), expected)
        assert equal(keep_top({"a": scores["a"].to(memory_format=torch.channels_last)}, 0.3), expected)
