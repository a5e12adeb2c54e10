"""Which weights are kept: `Mask` maps a parameter name to a bool tensor of its shape, True = kept.

A parameter that is not named in a mask is kept whole, so the mask of a dense network is `{}`.
Masks are explicit values; nothing here ever asks whether a weight is zero to learn whether it is pruned.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from pruning.errors import UserError, check_choice

Mask = dict[str, Tensor]

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEAR = (nn.Linear, nn.MultiheadAttention)  # of which the projections of queries, keys and values are in one weight
KINDS: dict[str, tuple[type[nn.Module], ...]] = {"conv": CONV, "linear": LINEAR, "conv+linear": (*CONV, *LINEAR)}


def prunable(
    model: nn.Module, layers: str = "conv", include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[str]:
    """Return the names of the prunable weights, in the model's order; `layers` is one of KINDS.

    `include` and `exclude` are patterns for the names of these layers, as in a shell: `layer1.*`, `*.conv2`, `fc`. With
    `include` only layers that one of its patterns matches are prunable; what `exclude` matches is not. UserError for a
    pattern that matches none of them, and if nothing is left.
    """
    kinds = KINDS[check_choice("layers", layers, KINDS)]
    layer_of = weighted(model, kinds)
    names = [name.rpartition(".")[0] for name in layer_of]
    for key, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                some = ", ".join(names[:3] + names[-1:]) or "none"
                raise UserError(f"{key}: {pattern} matches none of the {len(names)} {layers} layers ({some}, ...)", key)
    kept = {name for name in names if not include or any(fnmatchcase(name, pattern) for pattern in include)}
    kept = {name for name in kept if not any(fnmatchcase(name, pattern) for pattern in exclude)}
    if names and not kept:
        raise UserError(f"exclude: {', '.join(exclude)} leaves nothing of what layers and include name", "exclude")
    return [weight for weight, name in zip(layer_of, names, strict=True) if name in kept]


def weighted(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """Return the layers of these kinds by the name of their weight, in the model's order; a shared one once.

    Only weights that are parameters themselves: not those that are computed from others, as by weight normalisation.
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        leaf = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
        weight = module._parameters.get(leaf) if isinstance(module, kinds) else None
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            found[f"{name}.{leaf}" if name else leaf] = module
    return found


def usual(model: nn.Module) -> list[str]:
    """Return what counts as prunable in a network that was never pruned: convolutions, or else linear layers."""
    return prunable(model) or prunable(model, "linear")


def masked(weights: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` (like a state dict) with exactly +0.0 where the mask is False, also for nan, inf and -0.0."""
    return {name: torch.where(mask[name], w, 0) if name in mask else w for name, w in weights.items()}


def check(mask: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise AssertionError if any pruned weight is not exactly zero."""
    for name, keep in mask.items():
        wrong = int(torch.count_nonzero(weights[name][~keep]))
        assert not wrong, f"{wrong} pruned weights of {name} are not zero"


def enforcer(mask: Mapping[str, Tensor], model: nn.Module) -> Callable[[], None]:
    """Return a function that zeroes the pruned weights of `model` in place, in one foreach operation.

    It multiplies the bit patterns, read as integers, by 0 or 1: unlike the product of floats this gives +0.0
    from -0.0, inf and nan too. The parameters must stay where they are (no `model.to` afterwards).
    """
    if not mask:
        return lambda: None
    parameters = dict(model.named_parameters())
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per weight
    bits = [parameters[name].data.view(integers[parameters[name].element_size()]) for name in mask]
    # same strides as the weights, so that the product runs over memory once
    keep = [torch.empty_like(b).copy_(k) for b, k in zip(bits, mask.values(), strict=True)]

    def enforce() -> None:
        torch._foreach_mul_(bits, keep)

    return enforce


def counts(mask: Mapping[str, Tensor], names: Iterable[str], sizes: Mapping[str, int]) -> tuple[int, int]:
    """Return (weights in `names`, how many of them are kept)."""
    names = list(names)
    kept = sum(int(mask[name].sum()) if name in mask else sizes[name] for name in names)
    return sum(sizes[name] for name in names), kept


def sparsity(mask: Mapping[str, Tensor]) -> float:
    """Return the fraction of the weights named in `mask` that is pruned; 0 for an empty mask."""
    total = sum(keep.numel() for keep in mask.values())
    return sum(int((~keep).sum()) for keep in mask.values()) / total if total else 0.0
