"""Datasets as uint8 tensors on the device, and their batches, augmented a whole batch at a time."""

from pruning.data.batches import eval_batches, steps_per_epoch, train_batches
from pruning.data.loading import NAMES, info, load
from pruning.data.values import Data, Info, Progress, Split

__all__ = [
    "NAMES",
    "Data",
    "Info",
    "Progress",
    "Split",
    "eval_batches",
    "info",
    "load",
    "steps_per_epoch",
    "train_batches",
]
