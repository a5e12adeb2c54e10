"""What a network's operations do to the question whether anything of the image comes through, as 1 and 0.

Where a value is positive, something comes; sums, products, convolutions and monotone activations keep that as they
are. Normalisation by statistics of the input and attention do not: they are replaced by what says which inputs
an output can depend on.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _Reached(torch.autograd.Function):
    """1 where a value is positive, in both directions: paths are not counted, so nothing can overflow."""

    @staticmethod
    def forward(_ctx: object, values: Tensor) -> Tensor:
        return (values > 0).to(values.dtype)

    @staticmethod
    def backward(_ctx: object, *gradients: Tensor) -> Tensor:
        return (gradients[0] > 0).to(gradients[0].dtype)


def reached(values: Tensor) -> Tensor:
    """Return 1 where a value is positive, else 0; so does its gradient."""
    apply: Callable[[Tensor], Tensor] = _Reached.apply
    return apply(values)


class Reaching(TorchFunctionMode):
    """Inside, normalisation and attention say which outputs depend on any input that is positive."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return INSTEAD.get(func, func)(*args, **(kwargs or {}))


def _layer_norm(x: Tensor, normalized_shape: Any, *_: Any, **__: Any) -> Tensor:
    return _any(x, tuple(range(-len(normalized_shape), 0)))


def _group_norm(x: Tensor, num_groups: int, *_: Any, **__: Any) -> Tensor:
    return _any(x.reshape(len(x), num_groups, -1), (2,)).reshape(x.shape)


def _instance_norm(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _any(x, tuple(range(2, x.ndim)))


def _any(x: Tensor, over: tuple[int, ...]) -> Tensor:
    return reached(x.sum(over, keepdim=True)).expand_as(x)


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """Each query (..., L, E) sees each place of v (..., S, E), in proportions that q and k decide."""
    decides = 1 + reached(q.sum(-1, keepdim=True) + k.sum((-2, -1), keepdim=True))
    return reached(v.sum(-2, keepdim=True) * decides)


def _softmax(x: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor:
    return 1 + _any(x, (-1 if dim is None else dim,))


def _multi_head(
    query: Tensor, key: Tensor, value: Tensor, _embed: int, heads: int, in_proj: Tensor | None, *rest: Any, **named: Any
) -> tuple[Tensor, None]:
    """As torch's, of (L, N, E), whose 12th argument is the weight of the output; biases are zero."""
    parts = [named[f"{name}_proj_weight"] for name in "qkv"] if in_proj is None else in_proj.chunk(3)
    split = [
        reached(F.linear(x, w)).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for x, w in zip((query, key, value), parts, strict=True)
    ]
    out = _attention(*split).permute(2, 0, 1, 3).flatten(-2)
    return reached(F.linear(out, rest[5])), None


INSTEAD: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head,
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
}
