"""What result.json says: measured on the final weights, the cost taken with the mask."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.checkpoints import Checkpoint
from pruning.data import Data
from pruning.errors import UserError
from pruning.masks import cost, effective, sparsity
from pruning.report.layers import layers
from pruning.runs import Outputs, Result, Run, Step, is_file
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
) -> tuple[Result, Outputs]:
    """Measure what the step made on the device of `data`, which must be normalised as the checkpoint says.

    Return the figures, and what it says to the test images.

    `just_pruned` if these figures are those before finetuning; else they are handed down from the parent, in `runs`.
    `rows` are the step's epochs, `seconds` is what it took. UserError if a loss is not finite.
    """
    said: list[tuple[Tensor, Tensor]] = []
    counted, measured = _cost_of(checkpoint, data), _quality_of(step, checkpoint, data, said)
    figures: Result = {
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
        "epochs": len(rows),
        "seconds": seconds,
        "before": _before(step, measured, runs, just_pruned),
        "normalisation": checkpoint.normalisation,
        "settings": chain_settings(step, runs),
    }
    logits, labels = (torch.cat(parts) for parts in zip(*said, strict=True))
    return figures, Outputs.of(logits, labels, data.classes)


def _cost_of(checkpoint: Checkpoint, data: Data) -> dict[str, Any]:
    (_, *size, _), model = data.train.images.shape, checkpoint.network()
    shape = (3, size[0], size[1])
    kept = {row["layer"]: (row["kept"], row["weights"]) for row in layers(checkpoint)}
    return cost(model, checkpoint.mask, shape) | effective(model, checkpoint.mask, shape) | {"layers": kept}


def _quality_of(step: Step, checkpoint: Checkpoint, data: Data, said: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    model = checkpoint.network()
    model.to(data.device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's types know no formats
    measured = measure(model, data, step.precision, said)
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
