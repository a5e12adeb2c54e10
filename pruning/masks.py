"""Which weights are kept: `Mask` maps a parameter name to a bool tensor of its shape, True = kept.

A parameter that is not named in a mask is kept whole, so the mask of a dense network is `{}`.
Masks are explicit values; nothing here ever asks whether a weight is zero to learn whether it is pruned.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pruning.errors import UserError, one_of

Mask = dict[str, Tensor]

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Conv2d,),
    "linear": (nn.Linear,),
    "conv+linear": (nn.Conv2d, nn.Linear),
}
SCOPES = ("global", "layer")


def prunable(model: nn.Module, layers: str = "conv") -> list[str]:
    """Return the names of the prunable weights, in the model's order; `layers` is one of KINDS."""
    kinds = KINDS[one_of("prune.layers", layers, KINDS)]
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)]


def keep_top(
    scores: Mapping[str, Tensor],
    sparsity: float,
    scope: str = "global",
    within: Mapping[str, Tensor] | None = None,
) -> Mask:
    """Keep the highest scores so that exactly `round(sparsity * N)` of all N scored weights are pruned.

    `scores` holds one tensor a prunable weight, larger = keep, without nan. `scope` is where they compete: in
    "global" all together, in "layer" each tensor gives the same fraction (the counts still add up to the exact
    total, by largest remainder). What `within` has pruned stays pruned and counts. Equal scores: the earlier
    position is kept. Raises UserError for a sparsity outside [0, 1] or below that of `within`.
    """
    if not 0 <= sparsity <= 1:
        raise UserError(f"sparsity must be in [0, 1], got {sparsity}")
    one_of("prune.scope", scope, SCOPES)
    kept = {name: _alive(name, score, within or {}) for name, score in scores.items()}
    pruned = {name: int((~alive).sum()) for name, alive in kept.items()}
    sizes = {name: score.numel() for name, score in scores.items()}
    total = round(sparsity * sum(sizes.values()))
    if total < sum(pruned.values()):
        now = sum(pruned.values()) / sum(sizes.values())
        raise UserError(
            f"prune.percent={sparsity:g} is below the sparsity {now:.4f} that the network already has; "
            "a pruned weight never returns, so ask for more than that"
        )
    if scope == "global":
        flat = torch.cat([score.flatten() for score in scores.values()])
        alive = torch.cat([alive.flatten() for alive in kept.values()])
        chosen = _drop_lowest(flat, alive, total).split(list(sizes.values()))
    else:
        goal = allocate(total, list(sizes.values()), list(pruned.values()))
        chosen = tuple(
            _drop_lowest(scores[name].flatten(), kept[name].flatten(), count)
            for name, count in zip(kept, goal, strict=True)
        )
    return {name: keep.reshape(scores[name].shape) for name, keep in zip(scores, chosen, strict=True)}


def _alive(name: str, score: Tensor, within: Mapping[str, Tensor]) -> Tensor:
    if score.isnan().any():
        raise UserError(f"the scores of {name} contain nan: the weights or the gradients have diverged")
    return within[name] if name in within else torch.ones_like(score, dtype=torch.bool)


def _drop_lowest(scores: Tensor, alive: Tensor, pruned: int) -> Tensor:
    """Return a copy of `alive` (N,) in which `pruned` entries are False: the lowest alive scores have gone too."""
    keep = alive.clone()
    drop = pruned - int((~alive).sum())
    if drop:
        candidates = scores[alive]
        threshold = candidates.kthvalue(drop).values  # selection, not sorting: ten times faster on VGG
        gone = candidates < threshold
        ties = (candidates == threshold).nonzero().flatten()
        gone[ties[len(ties) - (drop - int(gone.sum())) :]] = True
        keep[alive.nonzero().flatten()[gone]] = False
    return keep


def allocate(total: int, sizes: Sequence[int], least: Sequence[int]) -> list[int]:
    """Share `total` over bins in proportion to `sizes`, in whole numbers that add up, none below its `least`.

    Largest remainder, equal remainders by position. Bins whose proportional part is below their `least` get
    just that, and the rest is shared among the others. Needs sum(least) <= total <= sum(sizes).
    """
    open_bins = set(range(len(sizes)))
    while True:
        rest = total - sum(least[i] for i in range(len(sizes)) if i not in open_bins)
        room = sum(sizes[i] for i in open_bins)
        short = {i for i in open_bins if rest * sizes[i] < least[i] * room}
        if not short:
            break
        open_bins -= short
    goal = [rest * sizes[i] // room if i in open_bins else least[i] for i in range(len(sizes))]
    by_remainder = sorted(open_bins, key=lambda i: (-(rest * sizes[i] % room), i))
    for i in by_remainder[: total - sum(goal)]:
        goal[i] += 1
    return goal


def applied(mask: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` with exactly +0.0 where the mask is False (also in place of nan, inf and -0.0)."""
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
    bits = [parameters[name].data.view(torch.int32) for name in mask]
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
