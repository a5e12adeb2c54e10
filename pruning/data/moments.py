"""Normalisation constants, from exact sums."""

import torch
from torch import Tensor

from pruning.data.values import Channels


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (float64, 3 each) of uint8 (N, H, W, 3) scaled to 0..1, from exact sums."""
    count = images[..., 0].numel()
    total, squares = torch.zeros(2, 3, dtype=torch.int64)
    for part in images.split(256):
        flat = part.reshape(-1, 3).long()
        total += flat.sum(0)
        squares += flat.square().sum(0)
    # Exact integers up to the last step: with floats, bright and even images would cancel to nothing.
    variance = [(count * s - t * t) / (count * count) for t, s in zip(total.tolist(), squares.tolist(), strict=True)]
    std = torch.tensor(variance, dtype=torch.float64).sqrt() / 255
    return total.double() / count / 255, torch.where(std > 0, std, 1.0)  # a constant channel is left as it is


def channels(values: Tensor) -> Channels:
    """Return one number for each channel."""
    red, green, blue = values.tolist()
    return red, green, blue
