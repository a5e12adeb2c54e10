"""Parameters and multiply-adds of a masked network. The mask is an argument: nothing is read off the weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pruning.masks.mask import Mask, counts, prunable


def uses_per_image(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> dict[str, int]:
    """Return how often each weight of a convolution or linear layer is used for one image of `shape` (C, H, W)."""
    uses: dict[str, int] = {}

    def hook(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def record(module: nn.Module, _inputs: object, output: Tensor) -> None:
            spatial = output.shape[2:].numel() if isinstance(module, nn.Conv2d) else 1
            uses[f"{name}.weight"] = uses.get(f"{name}.weight", 0) + spatial

        return record

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [module.register_forward_hook(hook(name)) for name, module in layers]
    device = next(model.parameters()).device
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape, device=device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return uses


def cost(model: nn.Module, mask: Mask, shape: tuple[int, int, int] = (3, 32, 32)) -> dict[str, int]:
    """Return `params params_nonzero prunable prunable_nonzero macs macs_nonzero`, exact integers.

    Parameters are the trainable ones. A multiply-add is one use of one weight of a convolution or linear layer
    for one image of `shape` (C, H, W); a pruned weight costs none. Prunable are the weights that the mask names,
    the convolutions for a network that was never pruned.
    """
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    names = list(mask) or prunable(model)
    total, kept = counts(mask, names, sizes)
    nonzero = {name: int(mask[name].sum()) if name in mask else size for name, size in sizes.items()}
    uses = uses_per_image(model, shape)
    return {
        "params": sum(sizes.values()),
        "params_nonzero": sum(nonzero.values()),
        "prunable": total,
        "prunable_nonzero": kept,
        "macs": sum(sizes[name] * times for name, times in uses.items()),
        "macs_nonzero": sum(nonzero[name] * times for name, times in uses.items()),
    }
