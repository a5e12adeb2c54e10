"""State dicts: of the original code, behind arXiv 2006.11487 and arXiv 1810.05270, and of any other."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from pruning import archs, rng
from pruning.checkpoints.checkpoint import Checkpoint, first_line
from pruning.errors import UserError
from pruning.masks import prunable
from pruning.modules import states

ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")  # where people put it
NORMALISATION = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
"""What that code normalises images with, those of CIFAR-10 and of CIFAR-100 alike."""


def unpickle(path: Path, content: bytes, arch: archs.Arch, num_classes: int) -> Checkpoint:
    """Read a `.pth.tar` of the original code, or any file with a state dict, under names with or without a prefix.

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
    """Return the state dict in a file of torch, that or one of its ENTRIES, or in one of safetensors; runs no code.

    Without `module.` of parallel training; UserError if there is none.
    """
    if content[8:9] == b"{":
        try:
            return safetensors.torch.load(content)
        except Exception as error:  # torch raises nearly everything for tensors of odd kinds
            raise UserError(f"{path} cannot be read as a checkpoint: {first_line(error)}; is it truncated?") from None
    whole = unpickled(path, content)
    found = whole
    if isinstance(whole, Mapping):
        found = next((whole[entry] for entry in ENTRIES if isinstance(whole.get(entry), Mapping)), whole)
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()
    ):
        raise UserError(f"{path} is not a checkpoint of weights: expected a dict with an entry {ENTRIES[0]}")
    weights: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if (short := name.removeprefix("module.")) in weights:
            raise UserError(f"{path} holds {short!a} twice, with and without `module.`")
        weights[short] = tensor
    return weights


def checkpoint_of(path: Path, found: Mapping[str, Tensor], arch: archs.Arch, num_classes: int) -> Checkpoint:
    """Return the network of a state dict; UserError, with the `path`, if it does not fit."""
    model = archs.skeleton(arch, num_classes)
    expected = states(model)
    weights = without_prefix(found, expected)
    for name, buffer in expected.items():  # older files have no counter of batches
        if name.endswith("num_batches_tracked"):
            weights.setdefault(name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    made = Checkpoint(weights, {}, arch, num_classes, NORMALISATION if isinstance(arch, str) else {})
    try:
        made = with_new_head(made, arch, num_classes).check()
    except UserError as error:
        raise UserError(f"path={path} {error}", "path") from None
    mask = {name: made.weights[name] != 0 for name in prunable(model)}
    mask = mask if any(bool((~keep).any()) for keep in mask.values()) else {}
    return replace(made, mask=mask)


def without_prefix(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of the network, if all of those have one prefix in the file."""
    if found.keys() & expected.keys() or not expected:
        return dict(found)
    first = next(iter(expected))
    for name in found:
        prefix = name.removesuffix(first)
        if prefix != name and all(prefix + one in found for one in expected if not one.endswith("num_batches_tracked")):
            return {key.removeprefix(prefix): tensor for key, tensor in found.items() if key.startswith(prefix)}
    return dict(found)


def with_new_head(made: Checkpoint, arch: archs.Arch, num_classes: int) -> Checkpoint:
    """Return the checkpoint for the network `arch`; if that resets its head, with a new one, equal for all seeds."""
    if isinstance(arch, str) or not arch.reset_head:
        return made
    name, _ = archs.head_of(archs.skeleton(arch, num_classes))
    fresh = states(archs.fresh(arch, num_classes, rng.generator(0, "head")))
    head = {key: tensor.detach() for key, tensor in fresh.items() if key.startswith(f"{name}.")}
    mask = {key: keep for key, keep in made.mask.items() if key not in head}
    return replace(made, arch=arch, num_classes=num_classes, weights={**made.weights, **head}, mask=mask)
