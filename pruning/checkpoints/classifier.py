"""A network with its preprocessing in front: what somebody who has images wants."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Images (N, 3, H, W) in, uint8 in 0..255 or float in 0..1; logits (N, classes) out."""

    def __init__(self, network: nn.Module, normalisation: Mapping[str, Sequence[float]]) -> None:
        super().__init__()
        constants = normalisation or {"mean": [0.0] * 3, "std": [1.0] * 3}  # before 0.3 a checkpoint could have none
        self.network = network
        self.mean, self.std = (nn.Buffer(torch.tensor(constants[k]).view(1, 3, 1, 1)) for k in ("mean", "std"))

    def forward(self, images: Tensor) -> Tensor:
        scaled = images.to(self.mean.dtype) / 255 if images.dtype == torch.uint8 else images
        logits: Tensor = self.network((scaled - self.mean) / self.std)
        return logits
