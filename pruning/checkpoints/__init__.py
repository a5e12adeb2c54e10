"""A network's weights and mask as one frozen value, and the files that hold it."""

from pruning.checkpoints.checkpoint import Checkpoint, snapshot
from pruning.checkpoints.original import NORMALISATION
from pruning.checkpoints.reading import MODEL, ChangedError, find_file, load

__all__ = ["MODEL", "NORMALISATION", "ChangedError", "Checkpoint", "find_file", "load", "snapshot"]
