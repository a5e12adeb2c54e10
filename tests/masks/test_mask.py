import itertools
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning import masks
from pruning.errors import UserError

ODD = (0.0, -0.0, 1.5, -2.5, math.nan, -math.nan, math.inf, -math.inf, 1e-40)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16, 5))


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32)


def test_prunable_names_the_weights_in_the_order_of_the_model() -> None:
    found = {layers: masks.prunable(net(), layers) for layers in masks.KINDS}
    conv, linear = ["0.weight", "3.weight"], ["5.weight"]
    assert found == {"conv": conv, "linear": linear, "conv+linear": conv + linear}
    assert masks.prunable(net()) == conv
    with pytest.raises(UserError, match=r"^layers must be one of .*, got 'convs'; did you mean conv\?$"):
        masks.prunable(net(), "convs")


def test_masked_gives_plus_zero_and_keeps_every_other_bit() -> None:
    weight, keep = torch.tensor(ODD), torch.arange(len(ODD)) % 2 == 0
    for mask in (keep, ~keep):
        result = masks.masked({"w": weight, "other": weight}, {"w": mask})
        assert torch.equal(bits(result["w"]), bits(weight) * mask)
        assert result["w"].dtype == weight.dtype
        assert result["other"] is weight
    assert torch.equal(bits(weight), bits(torch.tensor(ODD)))


def test_check_says_where_and_how_many() -> None:
    mask = {"a": torch.tensor([True, True]), "b": torch.tensor([True, False, False])}
    good = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([3.0, 0.0, -0.0])}
    masks.check(mask, good)
    for wrong in (1e-45, math.nan, math.inf):
        with pytest.raises(AssertionError, match=r"^1 pruned weights of b are not zero$"):
            masks.check(mask, good | {"b": torch.tensor([3.0, 0.0, wrong])})


def test_counts_above_the_integers_of_float32() -> None:
    size = 2**24 + 3
    mask = {"w": torch.ones(size, dtype=torch.bool)}
    mask["w"][5] = False
    assert masks.counts(mask, ["w", "v"], {"w": size, "v": 2}) == (size + 2, size + 1)
    assert masks.sparsity(mask) == 1 / size
    assert masks.sparsity({}) == 0.0


def test_the_enforcer_gives_plus_zero_and_keeps_every_other_bit() -> None:
    model = nn.Linear(len(ODD), 2, bias=False)
    mask = {"weight": torch.arange(2 * len(ODD)).reshape(2, -1) % 2 == 0}  # each value kept once and pruned once
    with torch.no_grad():
        model.weight.copy_(torch.tensor(ODD).expand(2, -1))
    before = bits(model.weight).clone()
    masks.enforcer({}, model)()
    assert torch.equal(bits(model.weight), before)
    masks.enforcer(mask, model)()
    assert torch.equal(bits(model.weight), before * mask["weight"])


def test_the_enforcer_reads_any_float() -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        model = nn.Linear(4, 2, bias=False).to(kind)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([-1.0, math.inf, math.nan, 2.0]).expand(2, -1))
        masks.enforcer({"weight": torch.tensor([False, False, False, True]).expand(2, -1)}, model)()
        assert model.weight.tolist() == [[0.0, 0.0, 0.0, 2.0]] * 2
        assert not model.weight.signbit().any()


def test_the_enforcer_reads_any_memory_format() -> None:
    formats = (torch.contiguous_format, torch.channels_last)
    for of_weights, of_mask in itertools.product(formats, formats):
        model = nn.Conv2d(3, 4, (3, 2)).to(memory_format=of_weights)
        keep = torch.rand(model.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
        before = model.weight.detach().clone()
        masks.enforcer({"weight": keep.contiguous(memory_format=of_mask)}, model)()
        assert torch.equal(bits(model.weight), bits(torch.where(keep, before, 0)))


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (torch.optim.Adam, {"lr": 0.01}),
        (torch.optim.AdamW, {"lr": 0.01}),
    ],
)
def test_the_enforcer_undoes_what_an_optimizer_carried_over_from_dense_training_revives(
    optimizer: Any, settings: dict[str, Any]
) -> None:
    """Trap: masking the gradients does not survive this."""
    model = net().to(memory_format=torch.channels_last)
    parameters = dict(model.named_parameters())
    opt = optimizer(model.parameters(), weight_decay=0.1, foreach=True, **settings)
    stream = torch.Generator().manual_seed(0)

    def step() -> None:
        opt.zero_grad()
        model(torch.randn(8, 3, 6, 6, generator=stream)).square().mean().backward()
        opt.step()

    for _ in range(3):
        step()
    mask = masks.prune(model, 0.7, layers="conv+linear")
    enforce = masks.enforcer(mask, model)
    enforce()
    start = {name: p.detach().clone() for name, p in parameters.items()}
    for _ in range(10):
        step()
        with pytest.raises(AssertionError, match=r"pruned weights of .* are not zero"):
            masks.check(mask, parameters)
        kept = {name: bits(parameters[name])[keep] for name, keep in mask.items()}
        enforce()
        for name, keep in mask.items():
            assert not bits(parameters[name])[~keep].any()
            assert torch.equal(bits(parameters[name])[keep], kept[name])
    assert all((parameters[name][keep] != start[name][keep]).all() for name, keep in mask.items())


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ((), (), ["0", "3", "5"]),
        (("0", "5"), (), ["0", "5"]),
        ((), ("[03]",), ["5"]),
        (("*",), ("5",), ["0", "3"]),
        (("[35]",), ("3",), ["5"]),
    ],
)
def test_patterns_narrow_what_is_prunable(include: tuple[str, ...], exclude: tuple[str, ...], left: list[str]) -> None:
    names = masks.prunable(net(), "conv+linear", include, exclude)
    assert names == [f"{name}.weight" for name in left]
    mask = masks.prune(net(), 0.5, layers="conv+linear", include=include, exclude=exclude)
    assert list(mask) == names
    size = sum(keep.numel() for keep in mask.values())
    assert sum(int((~keep).sum()) for keep in mask.values()) == round(0.5 * size)


@pytest.mark.parametrize(
    ("include", "exclude", "text"),
    [
        (("conv*",), (), "include: conv* matches none of the 2 conv layers (0, 3"),
        ((), ("0", "5"), "exclude: 5 matches none of the 2 conv layers"),
        (("3",), ("3",), "exclude: 3 leaves nothing"),
        ((), ("*",), "exclude: * leaves nothing"),
    ],
)
def test_patterns_that_match_nothing_or_leave_nothing_are_refused(
    include: tuple[str, ...], exclude: tuple[str, ...], text: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(text)}"):
        masks.prunable(net(), "conv", include, exclude)
