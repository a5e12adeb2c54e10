"""Checkpoints from elsewhere: that of `resume=`, in place of a dense network, and that of `prune.mask_from=`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pruning import archs, checkpoints
from pruning.checkpoints.reading import find_file
from pruning.errors import UserError, naming
from pruning.export import load_as
from pruning.files import sha256
from pruning.masks import counts, prunable, sparsity
from pruning.runs import Ref, find
from pruning.settings import path_of


@dataclass(frozen=True)
class Origin:
    """A file by its content, and how much of it is pruned already."""

    ref: Ref
    file: Path
    sparsity: float  # of its mask
    masked: int  # weights that its mask names
    pruned: Mapping[str, tuple[int, int]]  # for each layer, by its weight: its weights, and how many are pruned


def origin_of(given: Any, arch: archs.Arch, num_classes: int, runs: Path, key: str = "resume") -> Origin | None:
    """Return the checkpoint that `resume=PATH_OR_ID`, or another `key`, names; None for null."""
    if given is None:
        return None
    if type(given) not in (str, int) or not str(given).strip():
        without = "train the dense network" if key == "resume" else "find the mask by prune.criterion"
        raise UserError(f"{key} must be a path or the id of a run, got {given!r}; null: {without}")
    run = find(runs, str(given))
    if run and not run.finished():
        raise UserError(f"{key}={given}: that run is not done yet; run its command again first ({run.path})")
    path = run.model if run else path_of(key, str(given))
    with naming(keys={"path": key}):
        return read_origin(checkpoints.find_file(path).resolve(), arch, num_classes)


def masks_of(nodes: Mapping[str, Any], arch: archs.Arch, num_classes: int, runs: Path) -> dict[str, Origin]:
    """Return by stage the checkpoint that its `mask_from` names."""
    given = {name: node.get("mask_from") for name, node in nodes.items() if isinstance(node, Mapping)}
    found = {name: origin_of(one, arch, num_classes, runs, f"{name}.mask_from") for name, one in given.items()}
    return {name: origin for name, origin in found.items() if origin}


def with_mask(node: Mapping[str, Any], mask: Origin, stage: str) -> dict[str, Any]:
    """Return the node of a stage with the sparsity of the mask from elsewhere; UserError if it says another one."""
    source, percent = f"{stage}.mask_from={node['mask_from']}", node.get("percent")
    if not mask.sparsity:
        raise UserError(f"{source} is not pruned, so it has no mask to give")
    if percent is None:
        return {**node, "percent": mask.sparsity}
    if type(percent) in (int, float) and round(percent * mask.masked) != round(mask.sparsity * mask.masked):
        text = f"the mask of {source} prunes {mask.sparsity:.6g}; give that, or {stage}.percent=null"
        raise UserError(f"{stage}.percent={percent:g}: {text}")
    return dict(node)


@lru_cache
def read_origin(path: Path, arch: archs.Arch, num_classes: int) -> Origin:
    """Look at the checkpoint once for a whole sweep."""
    path = find_file(path)
    try:
        digest = sha256(path)
    except OSError as error:
        raise UserError(f"path={path} cannot be read: {error.strerror or error}", "path") from None
    found = load_as(path, arch, num_classes, sha256=digest)
    sizes = {name: weight.numel() for name, weight in found.weights.items()}
    pruned = {}
    for name in prunable(found.network(), "conv+linear"):
        weights, kept = counts(found.mask, [name], sizes)
        pruned[name] = (weights, weights - kept)
    masked = sum(keep.numel() for keep in found.mask.values())
    return Origin(f"sha256:{digest}", path, sparsity(found.mask), masked, pruned)
