"""Checkpoints of the original code, behind arXiv 2006.11487 and arXiv 1810.05270."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning import archs
from pruning.checkpoints.checkpoint import Checkpoint, first_line
from pruning.errors import UserError
from pruning.masks import prunable

NORMALISATION = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
"""What that code normalises images with, those of CIFAR-10 and of CIFAR-100 alike."""


def unpickle(path: Path, content: bytes, arch: str, num_classes: int) -> Checkpoint:
    """Read a `.pth.tar` of the original code: a dict with `state_dict`, its keys with or without `module.`.

    Its zeros in convolution weights become the mask (there the zeros *are* the mask); other entries are ignored.
    """
    return checkpoint_of(path, states_of(path, content), arch, num_classes)


def unpickled(path: Path, content: bytes) -> Any:
    """Return what a file of torch holds, with tensors on the CPU; UserError if it holds more than plain data."""
    make = np.float64(0).__reduce__()[0]  # best_acc is often a numpy number
    scalar: list[Any] = [make, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType]
    scalar.append((make, "numpy.core.multiarray.scalar"))  # its name before numpy 2
    try:
        with torch.serialization.safe_globals(scalar), warnings.catch_warnings(action="ignore"):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle can fail in any way
        text = f"{path} cannot be read as a checkpoint: {first_line(error)}; is it truncated or foreign?"
        raise UserError(text) from None


def states_of(path: Path, content: bytes) -> dict[str, Tensor]:
    """Return the state dict in a file of torch, that or its entry `state_dict`, without `module.`; runs no code."""
    whole = unpickled(path, content)
    states = whole.get("state_dict", whole) if isinstance(whole, Mapping) else None
    if not isinstance(states, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in states.items()
    ):
        raise UserError(f"{path} is not a checkpoint of weights: expected a dict with an entry state_dict")
    weights: dict[str, Tensor] = {}
    for name, tensor in states.items():
        if (short := name.removeprefix("module.")) in weights:
            raise UserError(f"{path} holds {short!a} twice, with and without `module.`")
        weights[short] = tensor
    return weights


def checkpoint_of(path: Path, states: Mapping[str, Tensor], arch: str, num_classes: int) -> Checkpoint:
    """Return the network of a state dict; UserError, with the `path`, if it does not fit."""
    weights = dict(states)
    with torch.device("meta"):
        model = archs.build(arch, num_classes)
    for name, buffer in model.state_dict().items():  # older files have no counter of batches
        if name.endswith("num_batches_tracked"):
            weights.setdefault(name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    found = Checkpoint(weights, {}, arch, num_classes, NORMALISATION)
    try:
        found = found.check()
    except UserError as error:
        raise UserError(f"path={path} {error}", "path") from None
    mask = {name: found.weights[name] != 0 for name in prunable(model)}
    mask = mask if any(bool((~keep).any()) for keep in mask.values()) else {}
    return replace(found, mask=mask)
