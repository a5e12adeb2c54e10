"""Where scores compete: a scope divides the weights into groups and says how many of each are to be pruned.

A new scope is one function (shapes, total, pruned) -> {names of a group: how many of its weights are pruned
afterwards}, entered in SCOPES; its keyword-only parameters are settings of `prune`. `shapes` and `pruned` (how many
are pruned already) have one entry per prunable weight, in the network's order; the counts add up to `total`, none
below what its group has pruned already.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

Groups = Mapping[tuple[str, ...], int]
Scope = Callable[..., Groups]


def everywhere(shapes: Mapping[str, torch.Size], total: int, _pruned: Mapping[str, int]) -> Groups:
    """All together: one threshold over all prunable weights."""
    return {tuple(shapes): total}


def layer(shapes: Mapping[str, torch.Size], total: int, pruned: Mapping[str, int]) -> Groups:
    """The same fraction of each tensor, by largest remainder."""
    goal = allocate(total, [shape.numel() for shape in shapes.values()], list(pruned.values()))
    return {(name,): count for name, count in zip(shapes, goal, strict=True)}


SCOPES: dict[str, Scope] = {"global": everywhere, "layer": layer}


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
