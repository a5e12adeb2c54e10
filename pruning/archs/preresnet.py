"""Pre-activation residual networks for 32x32 images (He et al. 2016, arXiv 1603.05027)."""

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each after BatchNorm and ReLU, beside the raw input or a 1x1 convolution of it."""

    expansion = 1
    convolutions = 2

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x inputs x H x W to N x width x H/stride x W/stride."""
        out = self.conv1(F.relu(self.bn1(x), inplace=True))
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        out += self.downsample(x) if self.downsample is not None else x
        return out


class Bottleneck(nn.Module):
    """As the basic block, with convolutions 1x1, 3x3 and 1x1, the last to four times the width."""

    expansion = 4
    convolutions = 3

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x inputs x H x W to N x 4*width x H/stride x W/stride."""
        out = self.conv1(F.relu(self.bn1(x), inplace=True))
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        out = self.conv3(F.relu(self.bn3(out), inplace=True))
        out += self.downsample(x) if self.downsample is not None else x
        return out


Block = type[BasicBlock] | type[Bottleneck]


class PreResNet(nn.Module):
    """Depth 6n + 2 (basic) or 9n + 2 (bottleneck): three stages of n blocks with widths 16, 32, 64.

    The last BatchNorm is `bn`: blocks end without one.
    """

    def __init__(self, block: Block, depth: int, num_classes: int) -> None:
        super().__init__()
        n = (depth - 2) // (3 * block.convolutions)
        k = block.expansion
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(block, n, 16, 16, stride=1)
        self.layer2 = _stage(block, n, 16 * k, 32, stride=2)
        self.layer3 = _stage(block, n, 32 * k, 64, stride=2)
        self.bn = nn.BatchNorm2d(64 * k)
        self.fc = nn.Linear(64 * k, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x 3 x H x W, 32x32 or another size, to N x num_classes logits."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = F.relu(self.bn(x), inplace=True)
        return self.fc(x.mean((2, 3)))


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Return the 1x1 convolution of a shortcut that changes shape; a Sequential only for its parameter name."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))


def _stage(block: Block, blocks: int, inputs: int, width: int, stride: int) -> nn.Sequential:
    first = block(inputs, width, stride)
    return nn.Sequential(first, *(block(block.expansion * width, width, 1) for _ in range(blocks - 1)))
