"""Obvious versions of what the library does fast: slow, short, and right."""

import torch
from torch import Tensor

from pruning import rng
from pruning.data import Data


def train_epoch(data: Data, *, seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Return (image, label) of one epoch in order, each float32 (3, H, W): crop, mirror and normalise one at a time."""
    n = len(data.train)
    order = torch.randperm(n, generator=rng.generator(seed, "order", epoch)).tolist()
    augment = rng.generator(seed, "augment", epoch)
    offsets = torch.randint(2 * data.pad + 1, (2, n), generator=augment).tolist()
    flips = torch.randint(2, (1, n), generator=augment)[0].tolist()
    mean, std = torch.tensor(data.mean).view(3, 1, 1), torch.tensor(data.std).view(3, 1, 1)
    result = []
    for position, index in enumerate(order):
        image = data.train.images[index].permute(2, 0, 1)
        height, width = image.shape[1:]
        padded = torch.zeros(3, height + 2 * data.pad, width + 2 * data.pad, dtype=torch.uint8)
        padded[:, data.pad : data.pad + height, data.pad : data.pad + width] = image
        top, left = offsets[0][position], offsets[1][position]
        window = padded[:, top : top + height, left : left + width]
        if data.flip and flips[position]:
            window = window.flip(2)
        result.append(((window / 255 - mean) / std, data.train.labels[index]))
    return result
