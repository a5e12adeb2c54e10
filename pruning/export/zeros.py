"""The zeros of anybody's checkpoint, layer by layer: no architecture is needed, and nothing in the file is executed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pruning.checkpoints.checkpoint import PREFIX, first_line
from pruning.checkpoints.original import ENTRIES, unpickled
from pruning.checkpoints.reading import content_of, find_file
from pruning.errors import UserError
from pruning.export import onnx, sparse

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
ORIG, MASK = "_orig", "_mask"  # of torch.nn.utils.prune


@dataclass(frozen=True)
class Layer:
    """One parameter; `pruned` and `alive` are None where the file has no mask for it."""

    name: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    pruned: int | None = None  # places that its mask prunes
    alive: int | None = None  # of these, how many are not zero

    @property
    def prunable(self) -> bool:
        """Whether it looks like the weight of a convolution or of a linear layer."""
        return len(self.shape) >= 2

    @property
    def sparsity(self) -> float:
        return self.zeros / self.weights if self.weights else 0.0


def count_zeros(path: Path | str) -> list[Layer]:
    """Return the parameters in a file: safetensors, ours or another's, or a file of torch.

    `NAME_orig` and `NAME_mask` of torch.nn.utils.prune are the parameter NAME. UserError if it is no such file.
    """
    file = find_file(Path(path))
    tensors, masks = read_tensors(file)
    for name in [name for name in tensors if name.endswith(ORIG)]:
        base = name.removesuffix(ORIG)
        if (keep := tensors.get(base + MASK)) is not None and base not in tensors:
            plain(file, base + MASK, keep)
            masks[base] = tensors.pop(base + MASK) != 0
            tensors = {base if key == name else key: tensor for key, tensor in tensors.items()}
            if masks[base].shape == tensors[base].shape:  # the network's weight is the product
                tensors[base] = plain(file, name, tensors[base]).masked_fill(~masks[base], 0)
    found = [*_layers(file, tensors, masks)]
    if not found:
        raise UserError(f"{file} holds no parameters")
    return found


def _layers(file: Path, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Iterator[Layer]:
    for name, keep in masks.items():
        if name not in tensors or keep.shape != tensors[name].shape or keep.dtype != torch.bool:
            raise UserError(f"{file} has a mask for {name!a} that fits none of its weights")
    for name, tensor in tensors.items():
        if name.endswith(BUFFERS) or not plain(file, name, tensor).is_floating_point():
            continue
        places, alive = None, None
        if (mask := masks.get(name)) is not None:
            places, alive = int((~mask).sum()), int(torch.count_nonzero(tensor[~mask]))
        zeros = tensor.numel() - int(torch.count_nonzero(tensor))
        yield Layer(name, tuple(tensor.shape), tensor.numel(), zeros, places, alive)


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a file by name, and the masks among them; UserError if it is no file of tensors."""
    content = content_of(file)
    if sparse.is_sparse(content) or onnx.is_onnx(content):
        found = (sparse if sparse.is_sparse(content) else onnx).unpack(file, content)
        return found.weights, found.mask
    if content[8:9] == b"{":
        try:
            tensors = safetensors.torch.load(content)
        except Exception as error:  # torch raises nearly everything for tensors of odd kinds
            text = f"{file} cannot be read as a checkpoint: {first_line(error)}; is it truncated?"
            raise UserError(text) from None
        masks = {name.removeprefix(PREFIX): tensors.pop(name) for name in [*tensors] if name.startswith(PREFIX)}
        return {name: tensors[name] for name in sorted(tensors, key=_by_numbers)}, masks  # they come in any order
    return states_in(file, unpickled(file, content)), {}


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Return a key to sort names with, `layer.2` before `layer.10`."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part[:18]), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]


def states_in(file: Path, whole: Any) -> dict[str, Tensor]:
    """Return the state dict in what a file of torch holds, itself or one of its ENTRIES; UserError if there is none."""
    if isinstance(whole, Mapping):
        for states in (*(whole[entry] for entry in ENTRIES if entry in whole), whole):
            if isinstance(states, Mapping):
                found = {str(name): tensor for name, tensor in states.items() if isinstance(tensor, Tensor)}
                if found:
                    return found
    keys = f" with {', '.join(map(ascii, [*whole][:5]))}" if whole and isinstance(whole, Mapping) else ""
    text = f"{file} holds a {type(whole).__name__}{keys}, and no tensors by name"
    raise UserError(f"{text}: expected a state dict, or one under {ENTRIES[0]}")


def plain(file: Path, name: str, tensor: Tensor) -> Tensor:
    """Return the tensor if its values lie in the file, one for each place; UserError if not."""
    kind = f"{tensor.layout}, {tensor.dtype}, {tensor.device}"
    if tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu":
        if tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes():
            return tensor.detach()
        kind = f"{[*tensor.shape]} of fewer values"
    raise UserError(f"{file} holds {name!a}, which is no plain tensor ({kind})")
