"""Gradients of convolutions in bfloat16 on a processor, against torch's in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.training import convolutions
from pruning.training.convolutions import ByMatrices, Convolution, Gradients, met

Layer = Callable[[], nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d]
LAYERS: dict[str, tuple[Layer, int]] = {  # and the size of the images
    "3x3": (lambda: nn.Conv2d(16, 32, 3, 2, 1, bias=False), 1),
    "5x5": (lambda: nn.Conv2d(16, 32, 5, 2, 2, bias=False), 1),
    "5x5 on 2x2": (lambda: nn.Conv2d(16, 32, 5, 2, 2, bias=False), 2),
    "stride 3": (lambda: nn.Conv2d(16, 32, 3, 3, 1, bias=False), 2),
    "dilated": (lambda: nn.Conv2d(16, 32, 3, 2, 2, dilation=2, bias=False), 2),
    "groups": (lambda: nn.Conv2d(64, 64, 3, 2, 1, groups=4, bias=False), 1),
    "of one axis": (lambda: nn.Conv1d(16, 32, 3, 2, 1, bias=False), 1),
    "of three": (lambda: nn.Conv3d(8, 16, 3, 2, 1, bias=False), 1),
    "valid": (lambda: nn.Conv2d(16, 32, 1, 2, "valid", bias=False), 3),
    "transposed": (lambda: nn.ConvTranspose2d(16, 32, 3, 2, 1, bias=False), 1),
    "all meet": (lambda: nn.Conv2d(16, 32, 3, 2, 1, bias=False), 8),
    "wide": (lambda: nn.Conv2d(128, 160, 3, 1, 1, bias=False), 1),
    "wide, stride 2": (lambda: nn.Conv2d(256, 256, 3, 2, 1, bias=False), 2),
    "wide, groups": (lambda: nn.Conv2d(256, 512, 3, 1, 1, groups=2, bias=False), 2),
    "wide, same": (lambda: nn.Conv2d(128, 128, 3, 1, "same", bias=False), 1),
}
ALL_MEET = {"all meet", "valid", "wide, groups"}


def poison(count: int) -> None:
    """Leave nan in the memory that is given out next."""
    for size in (count, count // 2, count // 4, 64, 1024, 16384):
        [torch.full((size,), torch.nan) for _ in range(3)]


@pytest.mark.parametrize("with_layer", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_taps_that_meet_padding_only_are_zero_and_the_others_as_they_are(
    name: str, with_layer: bool
) -> None:
    make, size = LAYERS[name]
    torch.manual_seed(0)
    layer = make().bfloat16()
    images = torch.randn(4, layer.in_channels, *[size] * (layer.weight.dim() - 2), dtype=torch.bfloat16)
    reference = make().double()
    reference.load_state_dict(layer.state_dict())
    gradient = torch.randn(reference(images.double()).shape)
    (wanted,) = torch.autograd.grad(reference(images.double()), [reference.weight], gradient.double())
    never = (wanted == 0).all(0).all(0)
    assert bool(never.any()) == (name not in ALL_MEET)
    for _ in range(2):
        layer.weight.grad = None
        poison(layer.weight.numel())
        with Gradients():
            found: Tensor = layer(images) if with_layer else called(layer, images)
        assert torch.equal(found, layer(images))
        poison(layer.weight.numel())
        found.backward(gradient.bfloat16())
        assert layer.weight.grad is not None
        torch.testing.assert_close(layer.weight.grad.double(), wanted, rtol=0.05, atol=0.05)
        assert not layer.weight.grad[..., never].any()
    assert not layer.weight._backward_hooks


def called(layer: Any, images: Tensor) -> Tensor:
    """Return what the layer computes, by torch's function, some arguments by their names."""
    if layer.transposed:
        return F.conv_transpose2d(images, layer.weight, stride=layer.stride[0], padding=layer.padding[0])
    function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[images.dim()]
    others = {"padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    return function(images, layer.weight, None, layer.stride[0], **others)


@pytest.mark.parametrize("sizes", [(4, 1, 1, 1), (5, 2, 1, 1), (3, 1, 2, 2), (3, 1, 0, 1)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_of_few_pixels_and_many_channels_all_gradients_are_right(
    sizes: tuple[int, ...], memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast, with a bias; images' and bias's gradients and the outputs are torch's, to the bit."""
    size, stride, padding, dilation = sizes
    monkeypatch.setattr(convolutions, "WIDE", 1)
    torch.manual_seed(0)
    layer: Any = nn.Conv2d(16, 24, (3, 2), stride, padding, dilation).to(memory_format=memory_format)
    images = torch.randn(6, 16, size, size).contiguous(memory_format=memory_format).requires_grad_()
    found = []
    for mode in (Gradients(), torch.enable_grad()):
        with torch.autocast("cpu", dtype=torch.bfloat16), mode:
            outputs = layer(images)
        gradients = torch.autograd.grad(outputs.float().square().sum(), [images, layer.weight, layer.bias])
        found.append((type(outputs.grad_fn).__name__, outputs, gradients))
    (name, ours, (of_images, of_weight, of_bias)), (other, theirs, expected) = found
    assert (name, other) == (f"{ByMatrices.__name__}Backward", "ConvolutionBackward0")
    assert torch.equal(ours, theirs)
    assert torch.equal(of_images, expected[0])
    assert torch.equal(of_bias, expected[2])
    torch.testing.assert_close(of_weight, expected[1], rtol=0.05, atol=0.05 * float(expected[1].abs().max()))
    assert of_weight.dtype == torch.float32
    assert layer.weight.grad is None


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_call_knows_its_output_and_which_taps_meet_images(data: st.DataObject) -> None:
    draw = data.draw
    transposed = draw(st.booleans())
    kernel, stride, dilation = (draw(st.integers(1, most)) for most in (5, 3, 3))
    padding, size = draw(st.integers(0, 4)), draw(st.integers(1, 6))
    images, weight = torch.ones(1, 1, size, size), torch.ones(1, 1, kernel, kernel, requires_grad=True)
    named: dict[str, Any] = {"stride": stride, "padding": (padding, padding), "dilation": [dilation]}
    function = F.conv_transpose2d if transposed else F.conv2d
    call = Convolution.of({"input": images, "weight": weight, **named}, transposed=transposed)
    assume(min(call.outputs) >= 1)
    outputs = function(images, weight, **named)
    outputs.sum().backward()
    assert call.outputs == tuple(outputs.shape[2:])
    assert weight.grad is not None
    kept = met(call)
    assert torch.equal(torch.ones(kernel, kernel, dtype=torch.bool) if kept is None else kept, weight.grad[0, 0] > 0)


def test_other_calls_are_left_alone() -> None:
    wide = nn.Conv2d(256, 256, 3, padding=1)
    images = torch.randn(2, 256, 2, 2)
    with Gradients():
        assert type(wide(images).grad_fn).__name__ == "ConvolutionBackward0"  # float32
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert wide(images).grad_fn is None
        frozen = wide.requires_grad_(False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert type(frozen(images.requires_grad_()).grad_fn).__name__ == "ConvolutionBackward0"
