"""What result.json says: measured on the final weights, the cost taken with the mask."""

import torch

from pruning.checkpoints import Checkpoint
from pruning.data import Data
from pruning.masks import cost, sparsity
from pruning.runs import Result, Run, Step
from pruning.training import measure


def measure_result(
    step: Step, checkpoint: Checkpoint, data: Data, run: Run, *, seconds: float, just_pruned: bool
) -> Result:
    """Measure what the step made on the device of `data`; `just_pruned` if these figures are those before finetuning.

    `seconds` is what the step took; loss and lineage are read from `run`.
    """
    model = checkpoint.network()
    images = data.train.images
    counted = cost(model, checkpoint.mask, (3, images.shape[1], images.shape[2]))
    # torch's types know no memory_format here
    model.to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    measured = measure(model, data, step.precision)
    parent, rows = run.parent(), run.rows()
    before: dict[str, float] | None
    if just_pruned:
        before = {name: value for name, value in measured.items() if name.startswith("test_")}
    else:  # handed down the chain from the last pruning
        earlier = parent.result() if parent else None
        before = earlier["before"] if earlier else None
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
        "before": before,
    }
