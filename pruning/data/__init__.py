"""Datasets as uint8 tensors on the device, and their batches, augmented a whole batch at a time."""

from pruning.data.batches import Batch, eval_batches, steps_per_epoch, train_batches
from pruning.data.loading import DATASETS, Dataset, DatasetSettings, held_out, info, load_data
from pruning.data.values import Data, Info, Progress, Split

__all__ = [
    "DATASETS",
    "Batch",
    "Data",
    "Dataset",
    "DatasetSettings",
    "Info",
    "Progress",
    "Split",
    "eval_batches",
    "held_out",
    "info",
    "load_data",
    "steps_per_epoch",
    "train_batches",
]
