"""The checkpoint that `resume=` gives in place of a dense network."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pruning import checkpoints
from pruning.errors import UserError, naming
from pruning.runs import Ref, find


@dataclass(frozen=True)
class Origin:
    """A file by its content, and how much of it is pruned already."""

    ref: Ref
    file: Path
    pruned: int  # weights that its mask prunes, and weights that the mask names
    masked: int

    @property
    def sparsity(self) -> float:
        return self.pruned / self.masked if self.masked else 0.0


def origin_of(resume: Any, arch: str, num_classes: int, runs: Path) -> Origin:
    """Return the checkpoint that `resume=PATH_OR_ID` names."""
    run = find(runs, str(resume))
    if run and not run.done:
        raise UserError(f"resume={resume}: that run is not done yet; run its command again first ({run.path})")
    path = run.model if run else Path(str(resume)).expanduser()
    with naming(keys={"path": "resume"}):
        return read_origin(path.resolve(), arch, num_classes)


@lru_cache
def read_origin(path: Path, arch: str, num_classes: int) -> Origin:
    """Look at the checkpoint once for a whole sweep."""
    mask = checkpoints.load_as(path, arch, num_classes).mask
    masked = sum(keep.numel() for keep in mask.values())
    pruned = masked - sum(int(keep.sum()) for keep in mask.values())
    return Origin(f"sha256:{checkpoints.digest(path)}", path, pruned, masked)
