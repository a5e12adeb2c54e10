"""Batches: float32 (B, 3, H, W) in channels_last format, normalised; nothing here waits for a GPU in mid-epoch."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from pruning import rng
from pruning.data.values import Data, Split

Batch = tuple[Tensor, Tensor]


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return the number of batches in an epoch of `n` images: n / batch_size rounded up."""
    return -(-n // batch_size)


def train_batches(
    data: Data, *, batch_size: int, seed: int, epoch: int, purpose: str = "training", first: int = 0
) -> Iterator[Batch]:
    """Yield (images, labels) of one epoch: every training image once, shuffled, cropped and flipped.

    Batch sizes differ by at most one and never exceed `batch_size`, so BatchNorm never meets a leftover batch
    of one image. Everything random is drawn before the first batch from the streams "order" and "augment" of
    (seed, purpose, epoch), so that training and finetuning do not see the same batches: `first=k` leaves out the
    first k batches and changes no bit of the others.
    """
    n = len(data.train)
    order = torch.randperm(n, generator=rng.generator(seed, f"{purpose} order", epoch))
    augment = rng.generator(seed, f"{purpose} augment", epoch)
    offsets = torch.randint(2 * data.pad + 1, (2, n), generator=augment)
    flips = torch.randint(2, (1, n), generator=augment) * int(data.flip)
    normalised, steps = _normaliser(data), max(1, steps_per_epoch(n, batch_size))
    plan = torch.cat([offsets, flips]).to(data.device).tensor_split(steps, dim=1)[first:]
    taken = data.train.batches(order.tensor_split(steps)[first:] if n else ())
    for (images, labels), (top, left, flip) in zip(taken, plan, strict=n > 0):
        yield normalised(_crop(images, data.pad, top, left, flip.bool())), labels


def eval_batches(data: Data, split: Split, *, batch_size: int = 500) -> Iterator[Batch]:
    """Yield (images, labels) of `split` in its order, neither cropped nor flipped; the last batch may be smaller."""
    normalised = _normaliser(data)
    for images, labels in split.batches(torch.arange(len(split)).split(batch_size) if len(split) else ()):
        yield normalised(images), labels


def _crop(images: Tensor, pad: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Return (B, H, W, 3) windows of the images padded with black, at rows `top` and columns `left`, some mirrored."""
    count, height, width, channels = images.shape
    across = torch.arange(width, device=images.device)
    item = torch.arange(count, device=images.device)[:, None, None]
    y = (top[:, None] + torch.arange(height, device=images.device))[:, :, None]
    x = (left[:, None] + torch.where(flip[:, None], across.flip(0), across))[:, None, :]
    # Padding a batch at a time costs less than padding the whole split once an epoch, and no memory;
    # one row number a pixel selects four times faster than three indices.
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))
    rows = (item * (height + 2 * pad) + y) * (width + 2 * pad) + x
    return padded.reshape(-1, channels).index_select(0, rows.flatten()).view(images.shape)


def _normaliser(data: Data) -> Callable[[Tensor], Tensor]:
    """Return the function from uint8 (B, H, W, 3) to normalised float32 (B, 3, H, W), channels_last."""
    mean, std = torch.tensor(data.mean, dtype=torch.float64), torch.tensor(data.std, dtype=torch.float64)
    # Whole planes, because broadcasting over a last dimension of three is five times slower on a CPU.
    plane = data.train.images.shape[1:]
    scale, shift = (
        values.float().expand(plane).contiguous().to(data.device) for values in (1 / (255 * std), -mean / std)
    )
    return lambda images: torch.addcmul(shift, images, scale).permute(0, 3, 1, 2)
