"""The networks of this package, by name, for 3x32x32 images.

Parameter names are those of the code behind arXiv 2006.11487 and arXiv 1810.05270, so that their checkpoints load.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pruning.archs.preresnet import BasicBlock, Bottleneck, PreResNet
from pruning.archs.resnet import ResNet
from pruning.archs.vgg import VGG
from pruning.archs.wide_resnet import WideResNet

ARCHS: dict[str, Callable[[int], nn.Module]] = {
    "resnet20": partial(ResNet, 20),
    "resnet32": partial(ResNet, 32),
    "resnet56": partial(ResNet, 56),
    "resnet110": partial(ResNet, 110),
    "preresnet110": partial(PreResNet, BasicBlock, 110),
    "preresnet164": partial(PreResNet, Bottleneck, 164),
    "vgg16": partial(VGG, 16),
    "vgg19": partial(VGG, 19),
    "wrn_16_8": partial(WideResNet, 16, 8),
}


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Set every parameter and buffer of `model` to a fresh start that only `generator` (a CPU one) decides.

    As in the original code: convolutions from N(0, 2 / (k * k * out_channels)); BatchNorm2d weights 1, in VGG 0.5;
    linear weights U(-1/sqrt(in), 1/sqrt(in)), in VGG N(0, 0.01 ** 2); biases 0 (the original draws the bias of a
    ResNet's `fc` too). The order is that of `model.modules()`; device and memory format change nothing.
    """
    is_vgg = isinstance(model, VGG)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            _set(module, _blank(module).normal_(0, math.sqrt(2 / fan_out), generator=generator))
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            weight = _blank(module)
            if is_vgg:
                weight.normal_(0, 0.01, generator=generator)
            else:
                weight.uniform_(-bound, bound, generator=generator)
            _set(module, weight)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            _set(module, _blank(module).fill_(0.5 if is_vgg and isinstance(module, nn.BatchNorm2d) else 1.0))
        elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            raise TypeError(f"no rule to initialise {name or 'the model'}, a {type(module).__name__}")


def _blank(module: nn.Module) -> Tensor:
    """Return an empty CPU tensor, contiguous: drawing in place would follow the weight's device and memory format."""
    return torch.empty(module.get_parameter("weight").shape, device="cpu")


def _set(module: nn.Module, weight: Tensor) -> None:
    module.get_parameter("weight").copy_(weight)
    if module.bias is not None:
        module.get_parameter("bias").zero_()
