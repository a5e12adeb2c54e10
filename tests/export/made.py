"""Checkpoints made by hand."""

from functools import lru_cache

import torch
from torch import nn

from pruning import archs, masks
from pruning.checkpoints import Checkpoint, snapshot
from pruning.export.coding import bytes_of

NORMALISATION = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def checkpoint(arch: str = "resnet20", sparsity: float = 0.8, layers: str = "conv") -> Checkpoint:
    model = network(arch)
    mask = masks.prune(model, sparsity, layers=layers) if sparsity else {}
    return Checkpoint(masks.masked(snapshot(model), mask), mask, arch, 10, NORMALISATION)


@lru_cache(2)
def network(arch: str) -> nn.Module:
    """Return a network as if it had been trained: nothing in it is what it was at the start."""
    stream = torch.Generator().manual_seed(0)
    model = archs.build(arch, 10)
    archs.initialise(model, stream)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            for name, tensor in module.state_dict().items():
                if tensor.is_floating_point():
                    tensor.add_(torch.rand(tensor.shape, generator=stream) * (0.5 if name.endswith("var") else 0.1))
                else:
                    tensor.fill_(1234567890123)
    return model.eval()


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Equal names in equal order, shapes, types and bits, and the same about them."""

    def plain(found: Checkpoint) -> list[tuple[object, ...]]:
        tensors = [*found.weights.items(), *found.mask.items()]
        return [(name, tensor.dtype, tensor.shape, bytes_of(tensor).tobytes()) for name, tensor in tensors]

    return plain(one) == plain(other) and one.about == other.about
