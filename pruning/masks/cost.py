"""Parameters and multiply-adds of a masked network. The mask is an argument: nothing is read off the weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruning.masks.mask import CONV, LINEAR, Mask, counts, usual


def uses_per_image(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> dict[str, int]:
    """Return how often each weight of a convolution or linear layer is used for one image of `shape` (C, H, W).

    That is once for each place of the output, of a transposed convolution for each place of the input, and for each
    token. What the network does with a weight other than by calling its layer is not seen.
    """
    uses: dict[str, int] = {}
    first: dict[int, str] = {}  # of a weight that layers share

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            uses[name] = uses.get(name, 0) + _places(module, inputs, output)

        return record

    handles = []
    for path, module in model.named_modules():
        for leaf, weight in _weights(module).items():
            name = first.setdefault(id(weight), f"{path}.{leaf}" if path else leaf)
            handles.append(module.register_forward_hook(hook(name)))
    device, was_training = next(model.parameters()).device, model.training
    fast = torch.backends.mha.get_fastpath_enabled()  # which calls no layers
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape, device=device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return uses


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights that a call of this layer uses, by their names in it; those of attention are all its own."""
    if isinstance(module, nn.MultiheadAttention):
        inside = {"out_proj.weight": module.out_proj.weight}
        return {name: w for name, w in module._parameters.items() if w is not None and "_weight" in name} | inside
    if isinstance(module, (*CONV, *LINEAR)) and module._parameters.get("weight") is not None:
        return {"weight": module.get_parameter("weight")}
    return {}


def _places(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    """Return how often a layer uses each of its weights for the one image."""
    if isinstance(module, nn.MultiheadAttention):
        return output[0].numel() // module.embed_dim
    if isinstance(module, nn.Linear):
        return output.numel() // module.out_features
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return inputs[0].numel() // module.in_channels
    return output.numel() // output.shape[1]


def cost(model: nn.Module, mask: Mask, shape: tuple[int, int, int] = (3, 32, 32)) -> dict[str, int]:
    """Return `params params_nonzero prunable prunable_nonzero macs macs_nonzero`, exact integers.

    Parameters are the trainable ones. A multiply-add is one use of one weight of a convolution or linear layer
    for one image of `shape` (C, H, W); a pruned weight costs none. Prunable are the weights that the mask names,
    those of `usual` for a network that was never pruned.
    """
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    names = list(mask) or usual(model)
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
