"""What result.json says: measured on the final weights, the cost taken with the mask."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pruning.checkpoints import Checkpoint
from pruning.data import Data
from pruning.errors import UserError
from pruning.masks import cost, sparsity
from pruning.runs import Result, Run, Step, is_file
from pruning.runs.chain import chain_settings
from pruning.training import measure


def measure_result(
    step: Step,
    checkpoint: Checkpoint,
    data: Data,
    runs: Path,
    *,
    rows: Sequence[Mapping[str, Any]],
    seconds: float,
    just_pruned: bool,
) -> Result:
    """Measure what the step made on the device of `data`, which must be normalised as the checkpoint says.

    `just_pruned` if these figures are those before finetuning; else they are handed down from the parent, in `runs`.
    `rows` are the step's epochs, `seconds` is what it took. UserError if a loss is not finite.
    """
    counted, measured = _cost_of(checkpoint, data), _quality_of(step, checkpoint, data)
    return {
        "id": step.id,
        "stage": step.stage,
        "parent": step.parent,
        "dataset": step.dataset["name"],
        "arch": step.arch["name"],
        "seed": step.seed,
        "percent": step.sparsity or 0.0,
        "level": step.level,
        "sparsity": sparsity(checkpoint.mask),
        **measured,  # type: ignore[typeddict-item] # test_*, and val_* where held out
        "train_loss": rows[-1]["train_loss"] if rows else None,
        **counted,
        "epochs": step.epochs,
        "seconds": seconds,
        "before": _before(step, measured, runs, just_pruned),
        "normalisation": checkpoint.normalisation,
        "settings": chain_settings(step, runs),
    }


def _cost_of(checkpoint: Checkpoint, data: Data) -> dict[str, int]:
    shape = data.train.images.shape
    return cost(checkpoint.network(), checkpoint.mask, (3, shape[1], shape[2]))


def _quality_of(step: Step, checkpoint: Checkpoint, data: Data) -> dict[str, float]:
    model = checkpoint.network()
    # torch's types know no memory_format here
    model.to(data.train.images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    measured = measure(model, data, step.precision)
    if wrong := [f"{name} is {value}" for name, value in measured.items() if not math.isfinite(value)]:
        raise UserError(f"what {step.name} made is no network: {', '.join(wrong)}")
    return measured


def _before(step: Step, measured: Mapping[str, float], runs: Path, just_pruned: bool) -> Mapping[str, float] | None:
    """Return the test figures right after the last pruning: those measured now, or those of the parent."""
    if just_pruned:
        return {name: value for name, value in measured.items() if name.startswith("test_")}
    if step.parent is None or is_file(step.parent):
        return None
    parent = Run(runs / step.places[step.parent]).result()
    return parent["before"] if parent else None
