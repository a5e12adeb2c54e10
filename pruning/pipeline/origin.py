"""The checkpoint that `resume=` gives in place of a dense network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pruning import checkpoints
from pruning.checkpoints.reading import find_file
from pruning.errors import UserError, naming
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
    pruned: Mapping[str, tuple[int, int]]  # for each layer, by its weight: its weights, and how many are pruned


def origin_of(resume: Any, arch: str, num_classes: int, runs: Path) -> Origin:
    """Return the checkpoint that `resume=PATH_OR_ID` names."""
    if type(resume) not in (str, int) or not str(resume).strip():
        raise UserError(f"resume must be a path or the id of a run, got {resume!r}; null: train the dense network")
    run = find(runs, str(resume))
    if run and not run.finished():
        raise UserError(f"resume={resume}: that run is not done yet; run its command again first ({run.path})")
    path = run.model if run else path_of("resume", str(resume))
    with naming(keys={"path": "resume"}):
        return read_origin(checkpoints.find_file(path).resolve(), arch, num_classes)


@lru_cache
def read_origin(path: Path, arch: str, num_classes: int) -> Origin:
    """Look at the checkpoint once for a whole sweep."""
    path = find_file(path)
    try:
        digest = sha256(path)
    except OSError as error:
        raise UserError(f"path={path} cannot be read: {error.strerror or error}", "path") from None
    found = checkpoints.load_as(path, arch, num_classes, sha256=digest)
    sizes = {name: weight.numel() for name, weight in found.weights.items()}
    pruned = {}
    for name in prunable(found.network(), "conv+linear"):
        weights, kept = counts(found.mask, [name], sizes)
        pruned[name] = (weights, weights - kept)
    return Origin(f"sha256:{digest}", path, sparsity(found.mask), pruned)
