"""Wide residual networks for 32x32 images (Zagoruyko and Komodakis 2016, arXiv 1605.07146), without dropout."""

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Pre-activation block; where the number of channels changes, the 1x1 shortcut starts after BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x inputs x H x W to N x outputs x H/stride x W/stride."""
        active = F.relu(self.bn1(x), inplace=True)
        out = self.conv1(active)
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        out += x if self.convShortcut is None else self.convShortcut(active)
        return out


class Stage(nn.Module):
    """A sequence of blocks; a module of its own only because the parameter names have `layer` in them."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = BasicBlock(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """Depth 6n + 4: three stages of n basic blocks with 16, 32, 64 times `width` channels."""

    def __init__(self, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        n = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Stage(n, 16, 16 * width, stride=1)
        self.block2 = Stage(n, 16 * width, 32 * width, stride=2)
        self.block3 = Stage(n, 32 * width, 64 * width, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x 3 x H x W, 32x32 or another size, to N x num_classes logits."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = F.relu(self.bn1(x), inplace=True)
        return self.fc(x.mean((2, 3)))
