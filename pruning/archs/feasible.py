"""What a network can take, asked of the network itself."""

from functools import lru_cache

import torch
from torch import nn

from pruning.archs.building import Arch, build
from pruning.archs.foreign import Foreign


@lru_cache(maxsize=512)  # once for a whole sweep
def problem(arch: Arch, num_classes: int, size: tuple[int, int], batch: int) -> str:
    """Return why the network cannot be trained on `batch` images of that height and width; empty if it can.

    A batch of 2 says whether it takes the size at all; BatchNorm cannot train on a single value for each channel.
    Nothing is asked on torch's meta device, which takes seconds to import what it needs.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        model = (build(arch, num_classes) if isinstance(arch, Foreign) else _of_zeros(arch, num_classes)).train()
        try:
            with torch.no_grad():
                logits = model(torch.zeros(batch, 3, *size))
        except Exception as error:  # shapes that do not fit; too few values; whatever another's code raises
            return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if not isinstance(logits, torch.Tensor):
        return f"it returns a {type(logits).__name__}, no tensor of logits"
    if tuple(logits.shape) != (batch, num_classes):
        return f"it returns {list(logits.shape)} for {batch} images, not {[batch, num_classes]}"
    return ""


def _of_zeros(arch: str, num_classes: int) -> nn.Module:
    """Build the network without drawing its weights, which takes longer than it works here."""
    with torch.device("meta"):
        model = build(arch, num_classes)
    for module in model.modules():  # `to_empty` too imports for long
        for name, weight in [*module.named_parameters(recurse=False)]:
            setattr(module, name, nn.Parameter(torch.zeros(tuple(weight.shape))))
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, torch.zeros(tuple(buffer.shape), dtype=buffer.dtype))
    return model
