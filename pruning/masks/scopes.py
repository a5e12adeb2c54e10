"""Where scores compete: a scope divides the weights into groups and says how many of each are to be pruned.

A new scope is one function (shapes, total, pruned) -> {names of a group: how many of its weights are pruned
afterwards}, entered in SCOPES; its keyword-only parameters are settings of `prune`. `shapes` and `pruned` (how many
are pruned already) have one entry per prunable weight, in the network's order; the counts add up to `total`, none
below what its group has pruned already.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from pruning.errors import UserError

CHANNELS = 3  # of an image

Groups = Mapping[tuple[str, ...], int]
Scope = Callable[..., Groups]


def everywhere(shapes: Mapping[str, torch.Size], total: int, _pruned: Mapping[str, int]) -> Groups:
    """All together: one threshold over all prunable weights."""
    return {tuple(shapes): total}


def layer(shapes: Mapping[str, torch.Size], total: int, pruned: Mapping[str, int]) -> Groups:
    """The same fraction of each tensor, by largest remainder."""
    goal = allocate(total, [shape.numel() for shape in shapes.values()], list(pruned.values()))
    return {(name,): count for name, count in zip(shapes, goal, strict=True)}


def erk(shapes: Mapping[str, torch.Size], total: int, pruned: Mapping[str, int]) -> Groups:
    """Erdos-Renyi-kernel: each tensor keeps a number in proportion to the sum of its dimensions, at most all.

    Its density is so (in + out + height + width) / (in * out * height * width) times a common factor (Evci et al. 2020,
    arXiv 1911.11134): small tensors keep more of theirs.
    """
    sizes = [shape.numel() for shape in shapes.values()]
    room = [size - gone for size, gone in zip(sizes, pruned.values(), strict=True)]
    kept = allocate(sum(sizes) - total, [sum(shape) for shape in shapes.values()], [0] * len(sizes), room)
    return {(name,): size - keep for name, size, keep in zip(shapes, sizes, kept, strict=True)}


def uniform_plus(shapes: Mapping[str, torch.Size], total: int, pruned: Mapping[str, int]) -> Groups:
    """As `layer`, but the first convolution stays whole, and of a last linear layer at most 80 % go.

    (Gale et al. 2019, arXiv 1902.09574.) The first convolution is the one that takes images, of CHANNELS; it need not
    be prunable. UserError if the others have not as many weights as are to be pruned.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    most, names = dict(sizes), list(shapes)
    if shapes[names[0]][1:2] == (CHANNELS,) and len(shapes[names[0]]) == 4:
        most[names[0]] = pruned[names[0]]
    if len(shapes[names[-1]]) == 2:
        most[names[-1]] = max(pruned[names[-1]], 4 * sizes[names[-1]] // 5)
    if total > sum(most.values()):
        limit = sum(most.values()) / sum(sizes.values())
        raise UserError(f"scope=uniform_plus can prune {limit:.4f} at most of this network: ask for less", "sparsity")
    goal = allocate(total, list(sizes.values()), list(pruned.values()), list(most.values()))
    return {(name,): count for name, count in zip(shapes, goal, strict=True)}


SCOPES: dict[str, Scope] = {"global": everywhere, "layer": layer, "erk": erk, "uniform_plus": uniform_plus}


def allocate(total: int, weights: Sequence[int], least: Sequence[int], most: Sequence[int] | None = None) -> list[int]:
    """Share `total` over bins in proportion to `weights`, in whole numbers that add up, within `least` and `most`.

    Largest remainder, equal remainders by position. Bins whose proportional part is outside their limits get the limit,
    and the rest is shared among the others. Needs sum(least) <= total <= sum(most); `most` is the weights themselves
    unless given. With limits on both sides, those are settled first whose sum is further off: then no bin that was
    settled would have to be opened again.
    """
    most = weights if most is None else most
    goal, open_bins = [0] * len(weights), set(range(len(weights)))
    while True:
        rest = total - sum(goal[i] for i in range(len(weights)) if i not in open_bins)
        room = sum(weights[i] for i in open_bins)
        short = {i: least[i] * room - rest * weights[i] for i in open_bins if rest * weights[i] < least[i] * room}
        long = {i: rest * weights[i] - most[i] * room for i in open_bins if rest * weights[i] > most[i] * room}
        if not short and not long:
            break
        settled, limit = (short, least) if sum(short.values()) >= sum(long.values()) else (long, most)
        for i in settled:
            goal[i] = limit[i]
        open_bins -= settled.keys()
    for i in open_bins:
        goal[i] = rest * weights[i] // room
    by_remainder = sorted(open_bins, key=lambda i: (-(rest * weights[i] % room), i))
    for i in [i for i in by_remainder if goal[i] < most[i]][: total - sum(goal)]:
        goal[i] += 1
    return goal
