"""What a network can take, asked of the network itself: on torch's meta device, where nothing is computed."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import nn

Build = Callable[[int], nn.Module]


@lru_cache(maxsize=512)  # once for a whole sweep
def trains(build: Build, num_classes: int, size: tuple[int, int], batch: int) -> bool:
    """Return whether the network can be trained on `batch` images of that height and width.

    A batch of 2 says whether it takes the size at all; BatchNorm cannot train on a single value for each channel.
    """
    with torch.device("meta"), torch.no_grad():
        try:
            logits = build(num_classes).train()(torch.empty(batch, 3, *size))
        except (RuntimeError, ValueError):  # shapes that do not fit; too few values
            return False
    return tuple(logits.shape) == (batch, num_classes)
