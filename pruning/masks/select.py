"""Which weights go: exactly as many as asked, the lowest scores first."""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pruning import rng
from pruning.errors import UserError, check_choice
from pruning.masks.criteria import CRITERIA, Criterion, Scores, Scoring
from pruning.masks.levels import sparsities
from pruning.masks.lowest import drop_lowest
from pruning.masks.mask import Mask, counts, prunable
from pruning.masks.scopes import SCOPES, Scope
from pruning.settings import check_range


def prune(
    model: nn.Module,
    sparsity: float,
    criterion: str | Criterion = "magnitude",
    scope: str | Scope = "global",
    *,
    layers: str = "conv",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    previous: Mapping[str, Tensor] | None = None,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    seed: int = 0,
) -> Mask:
    """Return the mask that prunes exactly `round(sparsity * N)` of the N prunable weights of `model` (on the CPU).

    The model is left as it is: `masked(model.state_dict(), mask)` are its pruned weights. `layers` says what is
    prunable ("conv", "linear", "conv+linear"), `include` and `exclude` narrow it as in `prunable`; what the mask
    `previous` has pruned stays pruned, counts where it is prunable, and is part of the result.
    `batches` of (images, labels), as the model takes them, are for criteria that look at data; `seed` decides what a
    criterion draws. A criterion of several rounds prunes geometrically towards the sparsity, one round after another.
    Raises UserError (a ValueError) for a sparsity outside [0, 1] or below the present one, or an unknown name.
    """
    if isinstance(criterion, str):
        criterion = CRITERIA[check_choice("criterion", criterion, CRITERIA)]
    check_range("sparsity", sparsity, {"least": 0, "most": 1})
    if not (names := prunable(model, layers, include, exclude)):
        raise UserError(f"layers={layers}: the network has no such layers, so there is nothing to prune", "layers")
    mask: Mask = {name: keep.cpu() for name, keep in (previous or {}).items()}
    dense = {name: torch.ones(model.get_parameter(name).shape, dtype=torch.bool) for name in names}
    size, kept = counts(mask, names, {name: keep.numel() for name, keep in dense.items()})
    if round(sparsity * size) == size - kept:  # no score would decide anything
        return mask | {name: mask.get(name, keep) for name, keep in dense.items()}
    generator = rng.generator(seed, "criterion")
    for target in sparsities(sparsity, count=criterion.rounds, start=1 - kept / size):
        network = _masked_copy(model, mask)
        weights = {name: network.get_parameter(name) for name in names}
        scores = criterion.score(Scoring(network, weights, batches, generator))
        mask |= keep_top(_checked(scores, weights), target, scope, mask)
    return mask


def keep_top(
    scores: Mapping[str, Tensor],
    sparsity: float,
    scope: str | Scope = "global",
    previous: Mapping[str, Tensor] | None = None,
) -> Mask:
    """Return the mask (on the CPU) of the highest scores: exactly `round(sparsity * N)` of all N weights are pruned.

    `scores` holds one tensor per prunable weight, larger = keep, without nan. `scope` is where they compete: in
    "global" all together, in "layer" each tensor gives the same fraction (the counts still add up to the exact
    total, by largest remainder). What `previous` has pruned stays pruned and counts. Equal scores: the earlier
    position is kept. Raises UserError for a sparsity outside [0, 1] or below that of `previous`.
    """
    check_range("sparsity", sparsity, {"least": 0, "most": 1})
    if not scores:
        raise UserError("scores must have an entry for each prunable weight, got none", "scores")
    if isinstance(scope, str):
        scope = SCOPES[check_choice("scope", scope, SCOPES)]
    for name, score in scores.items():
        if score.numel() and score.amin().isnan():  # which nan takes over
            raise UserError(f"the scores of {name} contain nan: the weights or the gradients have diverged")
    alive = {name: (previous or {}).get(name) for name in scores}
    pruned = {name: 0 if keep is None else keep.numel() - int(keep.count_nonzero()) for name, keep in alive.items()}
    size = sum(score.numel() for score in scores.values())
    total = round(sparsity * size)
    if total < sum(pruned.values()):
        raise UserError(
            f"sparsity={sparsity:g} is below the sparsity {sum(pruned.values()) / size:.4f} that the network already "
            "has; a pruned weight never returns, so ask for more than that",
            "sparsity",
        )
    groups = scope({name: score.shape for name, score in scores.items()}, total, pruned)
    if sorted(name for names in groups for name in names) != sorted(scores) or sum(groups.values()) != total:
        raise ValueError(f"a scope must name each weight once and give {total} to prune in all, got {dict(groups)}")
    mask: Mask = {}
    for names, count in groups.items():
        kept = drop_lowest([scores[name] for name in names], [alive[name] for name in names], count)
        mask |= zip(names, kept, strict=True)
    return {name: mask[name] for name in scores}


def _masked_copy(model: nn.Module, mask: Mask) -> nn.Module:
    """Return a copy in evaluation mode, in which the pruned weights are zero."""
    network = copy.deepcopy(model).eval()
    for name, keep in mask.items():
        weight = network.get_parameter(name)
        weight.data.masked_fill_(~keep.to(weight.device), 0)
    return network


def _checked(scores: Scores, weights: Mapping[str, Tensor]) -> Scores:
    """Return the scores of `weights` on the CPU; ValueError if the criterion has left one out or changed a shape."""
    for name, weight in weights.items():
        if name not in scores or scores[name].shape != weight.shape:
            got = f"shape {list(scores[name].shape)}" if name in scores else "none"
            raise ValueError(f"a criterion must give a score of shape {list(weight.shape)} for {name}, got {got}")
    return {name: scores[name].detach().cpu() for name in weights}
