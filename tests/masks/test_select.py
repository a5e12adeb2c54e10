import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning import masks
from pruning.errors import UserError
from tests import reference

NAN, INF = math.nan, math.inf
ODD = (0.0, -0.0, 1.5, -2.5, NAN, -NAN, INF, -INF, 1e-40)


@st.composite
def scored(draw) -> dict[str, Tensor]:
    """One to four layers of scores, most of them tied."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4))
    value = draw(
        st.sampled_from(
            [
                st.integers(0, 3).map(float),
                st.floats(-1, 1, width=32),
                st.sampled_from([0.0, -0.0, INF, -INF, 1.0]),
            ]
        )
    )
    sizes = [math.prod(shape) for shape in shapes]
    values = [draw(st.lists(value, min_size=size, max_size=size)) for size in sizes]
    return {f"{i}.weight": torch.tensor(v).reshape(s) for i, (s, v) in enumerate(zip(shapes, values, strict=True))}


@st.composite
def problem(draw) -> tuple[dict[str, Tensor], float, str, dict[str, Tensor]]:
    scores = draw(scored())
    total = sum(score.numel() for score in scores.values())
    edge = st.integers(0, total).map(lambda k: k / total)
    sparsity = draw(st.sampled_from([0.0, 1.0, 0.5]) | edge | st.floats(0, 1))
    earlier = {name for name in scores if draw(st.booleans())}
    within = {
        name: torch.tensor(draw(st.lists(st.booleans(), min_size=score.numel(), max_size=score.numel()))).reshape(
            score.shape
        )
        for name, score in scores.items()
        if name in earlier
    }
    return scores, sparsity, draw(st.sampled_from(masks.SCOPES)), within


def pruned(mask: dict[str, Tensor]) -> dict[str, int]:
    return {name: int((~keep).sum()) for name, keep in mask.items()}


@settings(deadline=None, max_examples=400)
@given(problem())
def test_keep_top_is_the_obvious_one(case):
    scores, sparsity, scope, within = case
    total = round(sparsity * sum(score.numel() for score in scores.values()))
    gone = sum(pruned(within).values())
    if total < gone:
        with pytest.raises(UserError, match=r"a pruned weight never returns") as caught:
            masks.keep_top(scores, sparsity, scope, within)
        assert "\n" not in str(caught.value)
        return
    before = {name: keep.clone() for name, keep in within.items()}
    mask = masks.keep_top(scores, sparsity, scope, within)
    expected = reference.keep_top(scores, sparsity, scope, within)
    assert list(mask) == list(scores)
    assert all(torch.equal(mask[name], expected[name]) for name in scores)
    assert all(keep.dtype == torch.bool and keep.shape == scores[name].shape for name, keep in mask.items())
    assert sum(pruned(mask).values()) == total
    assert not any((mask[name] & ~keep).any() for name, keep in within.items())
    assert all(torch.equal(within[name], keep) for name, keep in before.items())


@settings(deadline=None)
@given(scored(), st.floats(0, 1))
def test_layers_give_the_same_fraction(scores, sparsity):
    mask = masks.keep_top(scores, sparsity, "layer")
    sizes = {name: score.numel() for name, score in scores.items()}
    rate = round(sparsity * sum(sizes.values())) / sum(sizes.values())
    assert sum(pruned(mask).values()) == round(sparsity * sum(sizes.values()))
    assert all(abs(count - rate * sizes[name]) < 1 for name, count in pruned(mask).items())


@settings(deadline=None)
@given(scored(), st.lists(st.floats(0, 1), min_size=2, max_size=4).map(sorted), st.sampled_from(masks.SCOPES))
def test_pruning_again_and_again_nests_and_counts(scores, sparsities, scope):
    mask: masks.Mask = {}
    total = sum(score.numel() for score in scores.values())
    for sparsity in sparsities:
        last, mask = mask, masks.keep_top(scores, sparsity, scope, mask)
        assert not any((mask[name] & ~keep).any() for name, keep in last.items())
        assert sum(pruned(mask).values()) == round(sparsity * total)
        assert masks.sparsity(mask) == round(sparsity * total) / total


@settings(deadline=None)
@given(scored(), st.floats(0, 1), st.floats(0, 1))
def test_with_the_same_scores_the_way_does_not_matter(scores, a, b):
    low, high = sorted((a, b))
    twice = masks.keep_top(scores, high, within=masks.keep_top(scores, low))
    once = masks.keep_top(scores, high)
    assert all(torch.equal(once[name], twice[name]) for name in scores)


@st.composite
def bins(draw) -> tuple[int, list[int], list[int]]:
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=7))
    least = [draw(st.just(0) | st.integers(0, size)) for size in sizes]
    return draw(st.integers(sum(least), sum(sizes))), sizes, least


@settings(deadline=None, max_examples=500)
@given(bins())
def test_allocate_is_the_obvious_one(case):
    total, sizes, least = case
    goal = masks.allocate(total, sizes, least)
    assert sum(goal) == total
    assert all(low <= part <= size for low, part, size in zip(least, goal, sizes, strict=True))
    assert goal == reference.allocate(total, sizes, least)


@pytest.mark.parametrize(
    "total, sizes, least, goal",
    [
        (0, [3, 5], [0, 0], [0, 0]),
        (8, [3, 5], [0, 0], [3, 5]),
        (4, [4, 4], [0, 0], [2, 2]),
        (5, [4, 4], [0, 0], [3, 2]),  # equal remainders: the earlier
        (5, [1, 9], [0, 0], [1, 4]),  # 0.5 and 4.5
        (5, [4, 4], [4, 0], [4, 1]),
        (6, [10, 10, 10], [5, 0, 0], [5, 1, 0]),
        (6, [10, 10], [3, 3], [3, 3]),
        (2**60 + 1, [2**60, 2**60], [0, 0], [2**59 + 1, 2**59]),  # beyond the integers of a float
    ],
)
def test_allocate_by_hand(total, sizes, least, goal):
    assert masks.allocate(total, sizes, least) == goal


# Traps: `>` at a threshold prunes k + 1, all of them on ties, and crashes at 1.0.
@pytest.mark.parametrize("scope", masks.SCOPES)
@pytest.mark.parametrize("count", range(11))
def test_ties_go_by_position(scope, count):
    mask = masks.keep_top({"w": torch.full((2, 5), 0.25)}, count / 10, scope)
    assert mask["w"].flatten().tolist() == [True] * (10 - count) + [False] * count


def test_ties_across_layers_go_by_position():
    scores = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([1.0, 2.0, 0.0])}
    mask = masks.keep_top(scores, 0.6)
    assert mask["a"].tolist() == [True, False] and mask["b"].tolist() == [False, True, False]


@pytest.mark.parametrize("scope", masks.SCOPES)
def test_none_and_all(scope):
    scores = {"a": torch.rand(3, 4), "b": torch.rand(7)}
    assert all(keep.all() for keep in masks.keep_top(scores, 0, scope).values())
    assert not any(keep.any() for keep in masks.keep_top(scores, 1, scope).values())


@pytest.mark.parametrize("sparsity, count", [(0.25, 2), (0.35, 4), (0.05, 0), (0.15, 2)])
def test_a_half_rounds_as_python_rounds(sparsity, count):
    mask = masks.keep_top({"w": torch.arange(10.0)}, sparsity)
    assert int((~mask["w"]).sum()) == round(sparsity * 10) == count


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, 30, NAN])
def test_a_sparsity_outside_is_refused(sparsity):
    with pytest.raises(UserError, match=r"^sparsity must be in \[0, 1\], got "):
        masks.keep_top({"w": torch.rand(3)}, sparsity)


@pytest.mark.parametrize("scope", masks.SCOPES)
def test_nan_scores_are_refused(scope):
    with pytest.raises(UserError, match=r"^the scores of b\.weight contain nan"):
        masks.keep_top({"a.weight": torch.rand(3), "b.weight": torch.tensor([1.0, NAN])}, 0.5, scope)


def test_an_unknown_scope_is_refused():
    with pytest.raises(UserError, match=r"^prune.scope must be one of global, layer, got 'globl'; did you mean global"):
        masks.keep_top({"w": torch.rand(3)}, 0.5, "globl")


def test_less_than_before_is_refused():
    scores = {"w": torch.rand(10)}
    with pytest.raises(UserError, match=r"^prune.percent=0.3 is below the sparsity 0.5000"):
        masks.keep_top(scores, 0.3, within=masks.keep_top(scores, 0.5))


def test_a_zero_that_was_not_pruned_is_kept():
    """Trap: a mask read off the zeros of the weights."""
    mask = masks.keep_top({"w": torch.zeros(4)}, 0.5)
    assert mask["w"].tolist() == [True, True, False, False]
    assert masks.keep_top({"w": torch.zeros(4)}, 0.5, within=mask)["w"].tolist() == mask["w"].tolist()


def test_counts_above_the_integers_of_float32():
    size = 2**24 + 3
    mask = {"w": torch.ones(size, dtype=torch.bool)}
    mask["w"][5] = False
    assert masks.counts(mask, ["w", "v"], {"w": size, "v": 2}) == (size + 2, size + 1)
    assert masks.sparsity(mask) == 1 / size


def test_keep_top_counts_above_the_integers_of_float32():
    size = 2**24 + 3
    mask = masks.keep_top({"w": torch.zeros(size)}, (size - 2) / size)
    assert mask["w"].nonzero().flatten().tolist() == [0, 1]


def test_the_sparsity_of_no_mask_is_0():
    assert masks.sparsity({}) == 0.0


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16, 5))


@pytest.mark.parametrize(
    "layers, names",
    [
        ("conv", ["0.weight", "3.weight"]),
        ("linear", ["5.weight"]),
        ("conv+linear", ["0.weight", "3.weight", "5.weight"]),
    ],
)
def test_prunable_names_the_weights_in_order(layers, names):
    model = net()
    assert masks.prunable(model, layers) == names
    assert set(names) <= dict(model.named_parameters()).keys()


def test_an_unknown_kind_of_layer_is_refused():
    with pytest.raises(UserError, match=r"^prune.layers must be one of .*, got 'convs'; did you mean conv\?"):
        masks.prunable(net(), "convs")


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32)


def test_applied_gives_plus_zero_and_keeps_every_other_bit():
    weight = torch.tensor(ODD)
    keep = torch.arange(len(ODD)) % 2 == 0
    for mask in (keep, ~keep):
        result = masks.applied({"w": mask}, {"w": weight, "other": weight})
        assert bits(result["w"])[~mask].tolist() == [0] * int((~mask).sum())
        assert torch.equal(bits(result["w"])[mask], bits(weight)[mask])
        assert result["w"].dtype == weight.dtype and result["other"] is weight
    assert torch.equal(bits(weight), bits(torch.tensor(ODD)))


def test_check_says_where_and_how_many():
    mask = {"a": torch.tensor([True, True]), "b": torch.tensor([True, False, False])}
    good = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([3.0, 0.0, -0.0])}
    masks.check(mask, good)
    for wrong in (1e-45, NAN, INF):
        with pytest.raises(AssertionError, match=r"^1 pruned weights of b are not zero$"):
            masks.check(mask, good | {"b": torch.tensor([3.0, 0.0, wrong])})


def test_the_enforcer_multiplies_bits():
    model = nn.Linear(len(ODD), 2, bias=False)
    mask = {"weight": torch.arange(2 * len(ODD)).reshape(2, -1) % 2 == 0}
    with torch.no_grad():
        model.weight.copy_(torch.tensor(ODD).expand(2, -1))
    before = bits(model.weight).clone()
    masks.enforcer(mask, model)()
    assert not bits(model.weight)[~mask["weight"]].any()
    assert torch.equal(bits(model.weight)[mask["weight"]], before[mask["weight"]])


def test_the_enforcer_of_no_mask_does_nothing():
    model = net()
    before = {name: bits(p).clone() for name, p in model.named_parameters()}
    masks.enforcer({}, model)()
    assert all(torch.equal(bits(p), before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("of_weights, of_mask", [(True, False), (False, True), (True, True)])
def test_the_enforcer_reads_any_memory_format(of_weights, of_mask):
    model = nn.Conv2d(3, 4, (3, 2))
    if of_weights:
        model = model.to(memory_format=torch.channels_last)
    keep = torch.rand(model.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    before = model.weight.detach().clone()
    mask = {"weight": keep.contiguous(memory_format=torch.channels_last) if of_mask else keep}
    masks.enforcer(mask, model)()
    assert torch.equal(bits(model.weight), bits(torch.where(keep, before, 0)))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=True),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=True),
}


@pytest.mark.parametrize("carried", [False, True], ids=["fresh", "carried"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_are_zero_after_every_step(optimizer, carried):
    """Also when the optimizer was filled by dense training, which masking the gradients does not survive."""
    model = net().to(memory_format=torch.channels_last)
    opt = OPTIMIZERS[optimizer](model.parameters())
    stream = torch.Generator().manual_seed(0)

    def step() -> None:
        opt.zero_grad()
        model(torch.randn(8, 3, 6, 6, generator=stream)).square().mean().backward()
        opt.step()

    for _ in range(3 * carried):
        step()
    parameters = dict(model.named_parameters())
    scores = {name: parameters[name].detach().abs() for name in masks.prunable(model, "conv+linear")}
    mask = masks.keep_top(scores, 0.7)
    enforce = masks.enforcer(mask, model)
    enforce()
    start = {name: p.detach().clone() for name, p in parameters.items()}
    leaked = 0
    for _ in range(10):
        step()
        leaked += sum(int(torch.count_nonzero(parameters[name][~keep])) for name, keep in mask.items())
        kept = {name: bits(parameters[name])[keep] for name, keep in mask.items()}
        enforce()
        masks.check(mask, parameters)
        for name, keep in mask.items():
            assert not bits(parameters[name])[~keep].any()
            assert torch.equal(bits(parameters[name])[keep], kept[name])
    assert leaked  # there was something to enforce
    assert all((parameters[name][keep] != start[name][keep]).all() for name, keep in mask.items())


def test_check_sees_what_momentum_revives():
    model = net()
    parameters = dict(model.named_parameters())
    opt = OPTIMIZERS["sgd"](model.parameters())
    model(torch.ones(2, 3, 6, 6)).sum().backward()
    opt.step()
    mask = masks.keep_top({"5.weight": parameters["5.weight"].detach().abs()}, 0.5)
    masks.enforcer(mask, model)()
    masks.check(mask, parameters)
    opt.step()
    with pytest.raises(AssertionError, match=r"pruned weights of 5\.weight are not zero"):
        masks.check(mask, parameters)


def test_nan_and_infinity_are_cured():
    model = nn.Conv2d(2, 2, 2, bias=False)
    keep = torch.zeros(model.weight.shape, dtype=torch.bool)
    for value in (NAN, INF, -INF, -0.0):
        nn.init.constant_(model.weight, value)
        masks.enforcer({"weight": keep}, model)()
        assert not bits(model.weight).any()
