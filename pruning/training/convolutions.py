"""Gradients of a convolution's weights in bfloat16 on a processor, where oneDNN's are slow, or are none.

oneDNN (as in torch 2.11 to 2.15) multiplies the padding too: for images of few pixels and many channels, products of
matrices without it are several times as fast. And if the stride is larger than 1 it leaves, for taps of the kernel that
only ever meet padding, what was in the memory before: a kernel of 3x3 on an image of 1x1 gets numbers, or nan, that no
computation has made. Those are zero here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Sizes = tuple[int, ...]
Places = tuple[slice, slice]
"""Of a tap along an axis: in the image that has the step 1, and in the other, which has that of the stride."""

USUAL = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
ARGUMENTS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), USUAL),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), TRANSPOSED),
}
WIDE = 1 << 14  # input times output channels, from which on matrices are faster for each pixel that comes out


class Gradients(TorchFunctionMode):
    """Within it convolutions have such gradients, whoever calls them; the network's outputs stay what they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in ARGUMENTS and torch.is_grad_enabled():
            named = {**dict(zip(ARGUMENTS[func], args, strict=False)), **kwargs}
            if _in_bfloat16(named["input"]) and named["weight"].requires_grad:
                return _called(func, named)
        return func(*args, **kwargs)


def _in_bfloat16(images: Tensor) -> bool:
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return images.dtype == torch.bfloat16


def _called(func: Callable[..., Tensor], named: dict[str, Any]) -> Tensor:
    """Return what `func` computes, with the gradient of the weight made here where that is better."""
    images, weight = named["input"], named["weight"]
    strided = named.get("stride", 1) not in (1, (1,), (1, 1), (1, 1, 1))
    channels = weight.shape[0] * weight.shape[1]
    plain = func is torch.conv2d and images.dim() == 4 and named.get("groups", 1) == 1
    if named.get("padding") == "same" or not (strided or (plain and channels >= WIDE)):
        return func(**named)
    call = Convolution.of(named, transposed=ARGUMENTS[func] == TRANSPOSED)
    pixels, taps = math.prod(call.outputs), math.prod(call.kernel)
    if plain and taps > 1 and channels >= WIDE * pixels:
        given = (None if part is None else part.to(torch.bfloat16) for part in (images, weight, named.get("bias")))
        return ByMatrices.apply(*given, call)
    if strided and (kept := met(call)) is not None:
        named["weight"] = weight.view_as(weight)
        named["weight"].register_hook(lambda gradient: torch.where(kept, gradient, 0))
    return func(**named)


@dataclass(frozen=True)
class Convolution:
    """What a call computes, but for the numbers: sizes, each with an entry for each axis of the images."""

    inputs: Sizes
    outputs: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    transposed: bool

    @classmethod
    def of(cls, named: Mapping[str, Any], *, transposed: bool = False) -> "Convolution":
        """Take it from the arguments of a function of torch, by their names."""
        kernel = tuple(named["weight"].shape[2:])

        def each(name: str, default: int) -> Sizes:
            size = named.get(name, default)
            sizes = (size,) if isinstance(size, int) else (0,) if size == "valid" else tuple(size)
            return sizes * len(kernel) if len(sizes) == 1 else sizes

        inputs = tuple(named["input"].shape[-len(kernel) :])
        stride, padding, dilation = each("stride", 1), each("padding", 0), each("dilation", 1)
        axes = zip(inputs, kernel, stride, padding, dilation, each("output_padding", 0), strict=True)
        outputs = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + more + 1 if transposed else (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d, more in axes
        )
        return cls(inputs, outputs, kernel, stride, padding, dilation, transposed)

    def places(self) -> list[list[Places | None]]:
        """Return, for each axis, where each tap meets what; None if that is padding everywhere."""
        narrow, wide = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        axes = zip(narrow, wide, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return [[_places(n, w, tap * d - p, s) for tap in range(size)] for n, w, size, s, p, d in axes]


def _places(narrow: int, wide: int, offset: int, stride: int) -> Places | None:
    first, last = max(0, -(offset // stride)), min(narrow - 1, (wide - 1 - offset) // stride)
    if first > last:
        return None
    return slice(first, last + 1), slice(first * stride + offset, last * stride + offset + 1, stride)


@lru_cache
def met(call: Convolution) -> Tensor | None:
    """Return which taps of the kernel meet anything but padding, a bool for each; None if all do."""
    sides = [torch.tensor([place is not None for place in axis]) for axis in call.places()]
    found = reduce(lambda some, side: some[..., None] & side, sides)
    return None if bool(found.all()) else found


class ByMatrices(torch.autograd.Function):
    """A convolution of two axes, without groups; the gradient of its weight is a product of matrices for each tap."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, call: Convolution) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.call = call
        return torch.conv2d(images, weight, bias, call.stride, call.padding, call.dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        call: Convolution = ctx.call
        wanted = [ctx.needs_input_grad[0], False, ctx.needs_input_grad[2]]
        sizes = (call.stride, call.padding, call.dilation, False, (0, 0), 1)
        of_images, _, of_bias = torch.ops.aten.convolution_backward(
            gradient, images, weight, weight.shape[:1], *sizes, wanted
        )
        return of_images, of_weight(gradient, images, call), of_bias, None


def of_weight(gradient: Tensor, images: Tensor, call: Convolution) -> Tensor:
    """Return the gradient of the weight (O, I, KH, KW), channels last.

    `gradient` is of the outputs (N, O, H, W), `images` are (N, I, H, W) of their own height and width.
    """
    outer, inner = gradient.permute(0, 2, 3, 1), images.permute(0, 2, 3, 1)
    rows, columns = call.places()
    none = gradient.new_zeros(gradient.shape[1], images.shape[1])
    parts = [
        none
        if row is None or column is None
        else torch.mm(outer[:, row[0], column[0]].flatten(0, 2).t(), inner[:, row[1], column[1]].flatten(0, 2))
        for row in rows
        for column in columns
    ]
    return torch.stack(parts, 1).unflatten(1, call.kernel).permute(0, 3, 1, 2)
