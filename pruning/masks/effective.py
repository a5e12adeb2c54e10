"""Which kept weights can matter: those on a path of kept weights from the input to the output."""

import torch
from torch import Tensor, nn

from pruning.masks.mask import CONV, Mask, usual
from pruning.masks.reaching import Reaching, reached
from pruning.modules import states

WEIGHTED = (*CONV, nn.Linear)


def on_a_path(model: nn.Module, mask: Mask, shape: tuple[int, int, int] = (3, 32, 32)) -> Mask:
    """Return, for each masked weight, whether it is kept and lies on a path from the input to the output.

    What lies on none changes the outputs by a constant at most, whatever its value (unless a constant shares the
    statistics of a GroupNorm with what is none): nothing comes to it from the image
    of `shape` (C, H, W), or nothing that it makes goes on to a class. Those of the mask are the effective weights, and
    their share is the effective sparsity (Vysogorets & Kempe 2023, arXiv 2107.02306). Unmasked weights count as kept.
    What is added to the image's own, such as an embedding of its places, counts as coming from it.
    The model is left as it was.
    """
    weights = {name: value.detach() for name, value in states(model).items()}
    ones = {name: torch.ones_like(value) for name, value in weights.items() if value.is_floating_point()}
    kept = {name: keep.to(ones[name]).requires_grad_() for name, keep in mask.items()}
    # biases and running means would reach what no image reaches
    zeros = {name: torch.zeros_like(ones[name]) for name in ones if name.endswith(("bias", "running_mean"))}
    handles = [m.register_forward_hook(_reached) for m in model.modules() if isinstance(m, WEIGHTED)]
    was_training = model.training
    try:
        image = torch.ones(1, *shape, device=next(model.parameters()).device)
        with torch.enable_grad(), Reaching():
            out = torch.func.functional_call(model.eval(), weights | ones | zeros | kept, (image,))
        found = torch.autograd.grad(out.sum(), list(kept.values()), allow_unused=True) if kept else ()
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    used = zip(mask.items(), found, strict=True)
    return {name: keep & (grad > 0 if grad is not None else torch.zeros_like(keep)) for (name, keep), grad in used}


def _reached(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return reached(output)


def effective(model: nn.Module, mask: Mask, shape: tuple[int, int, int] = (3, 32, 32)) -> dict[str, object]:
    """Return `effective_nonzero`, the number of prunable weights on a path, and `empty_layers`, names without weights.

    Prunable are the weights that the mask names, those of `usual` for a network that was never pruned.
    """
    if not mask:
        weights = dict(model.named_parameters())
        mask = {name: torch.ones_like(weights[name], dtype=torch.bool) for name in usual(model)}
    used = on_a_path(model, mask, shape)
    empty = [name.removesuffix(".weight") for name, keep in mask.items() if not keep.any()]
    return {"effective_nonzero": sum(int(keep.sum()) for keep in used.values()), "empty_layers": empty}
