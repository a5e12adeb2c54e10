from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pruning.training.padding import keep_zero, met

Layer = Callable[[], nn.Conv2d | nn.ConvTranspose2d]
LAYERS: dict[str, tuple[Layer, int]] = {
    "3x3": (lambda: nn.Conv2d(16, 32, 3, 2, 1, bias=False), 1),
    "5x5": (lambda: nn.Conv2d(16, 32, 5, 2, 2, bias=False), 1),
    "5x5 on 2x2": (lambda: nn.Conv2d(16, 32, 5, 2, 2, bias=False), 2),
    "stride 3": (lambda: nn.Conv2d(16, 32, 3, 3, 1, bias=False), 2),
    "dilated": (lambda: nn.Conv2d(16, 32, 3, 2, 2, dilation=2, bias=False), 2),
    "groups": (lambda: nn.Conv2d(64, 64, 3, 2, 1, groups=4, bias=False), 1),
    "valid": (lambda: nn.Conv2d(16, 32, 1, 2, "valid", bias=False), 3),
    "transposed": (lambda: nn.ConvTranspose2d(16, 32, 3, 2, 1, bias=False), 1),
    "all meet": (lambda: nn.Conv2d(16, 32, 3, 2, 1, bias=False), 8),
}


def poison(count: int) -> None:
    """Leave nan in the memory that is given out next."""
    for size in (count, count // 2, count // 4, 64, 1024, 16384):
        [torch.full((size,), torch.nan) for _ in range(3)]


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_taps_that_meet_padding_only_are_zero_and_the_others_as_they_are(name: str) -> None:
    make, size = LAYERS[name]
    torch.manual_seed(0)
    layer = make().bfloat16()
    images = torch.randn(4, layer.in_channels, size, size, dtype=torch.bfloat16)
    reference = make().double()
    reference.load_state_dict(layer.state_dict())
    shape = reference(images.double()).shape
    gradient = torch.randn(shape)
    (wanted,) = torch.autograd.grad(reference(images.double()), [reference.weight], gradient.double())
    kept = met(layer, images.shape[2:], shape[2:])
    assert torch.equal(wanted, torch.where(kept, wanted, 0))
    assert bool((wanted != 0)[..., kept].any())
    assert bool(kept.all()) == (name in ("all meet", "valid"))
    with keep_zero(layer):
        for _ in range(2):
            layer.weight.grad = None
            poison(layer.weight.numel())
            found: Tensor = layer(images)
            poison(layer.weight.numel())
            found.backward(gradient.bfloat16())
            assert layer.weight.grad is not None
            torch.testing.assert_close(layer.weight.grad.double(), wanted, rtol=0.05, atol=0.05)
            assert torch.equal(layer.weight.grad, torch.where(kept, layer.weight.grad, 0))
    assert not layer.weight._backward_hooks
    assert not layer._forward_hooks
