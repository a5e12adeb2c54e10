"""Taps of a kernel that only ever meet padding: their gradients are zero.

In bfloat16 on a processor, oneDNN (as in torch 2.11 to 2.15) leaves there what was in the memory before, if the stride
is larger than 1: a kernel of 3x3 on an image of 1x1 gets numbers, or nan, that no computation has made.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@contextmanager
def keep_zero(model: nn.Module) -> Iterator[None]:
    """Within it the gradients of such taps are zero.

    Which these are is seen when the layer is first called, and taken to stay so. What calls a convolution's function
    itself, without a layer, is not seen.
    """
    handles: list[RemovableHandle] = []

    def watch(layer: Convolution) -> None:
        def look(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            first.remove()
            kept = met(layer, inputs[0].shape[2:], output.shape[2:])
            if not bool(kept.all()):
                handles.append(layer.weight.register_hook(lambda gradient: torch.where(kept, gradient, 0)))

        first = layer.register_forward_hook(look)
        handles.append(first)

    for layer in model.modules():
        if isinstance(layer, Convolution) and max(layer.stride) > 1 and layer.padding_mode == "zeros":
            watch(layer)

    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def met(layer: Convolution, inputs: torch.Size, outputs: torch.Size) -> Tensor:
    """Return which taps of the kernel meet anything but padding, a bool for each."""
    narrow, wide = (inputs, outputs) if layer.transposed else (outputs, inputs)
    padding = (0,) * len(inputs) if isinstance(layer.padding, str) else layer.padding  # of a stride: "valid"
    sides = []
    for axis, size in enumerate(layer.kernel_size):
        steps = torch.arange(narrow[axis])[:, None] * layer.stride[axis]
        places = steps + torch.arange(size) * layer.dilation[axis] - padding[axis]
        sides.append(((places >= 0) & (places < wide[axis])).any(0))
    return reduce(lambda some, side: some[..., None] & side, sides)
