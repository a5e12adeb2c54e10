"""Masks: which weights are kept, how that is chosen, and what is left."""

from pruning.masks.cost import cost
from pruning.masks.criteria import CRITERIA, Criterion, Scores, Scoring
from pruning.masks.during import DropAndGrow, Gradual, Growth, Updates, at_random, by_gradient
from pruning.masks.effective import effective, on_a_path
from pruning.masks.levels import Levels, sparsities
from pruning.masks.mask import KINDS, Mask, check, counts, enforcer, masked, prunable, sparsity
from pruning.masks.scopes import SCOPES, Scope
from pruning.masks.select import keep_top, prune

__all__ = [
    "CRITERIA",
    "KINDS",
    "SCOPES",
    "Criterion",
    "DropAndGrow",
    "Gradual",
    "Growth",
    "Levels",
    "Mask",
    "Scope",
    "Scores",
    "Scoring",
    "Updates",
    "at_random",
    "by_gradient",
    "check",
    "cost",
    "counts",
    "effective",
    "enforcer",
    "keep_top",
    "masked",
    "on_a_path",
    "prunable",
    "prune",
    "sparsities",
    "sparsity",
]
