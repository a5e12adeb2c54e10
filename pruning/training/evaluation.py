"""How good a network is: counted over a whole split, then divided once."""

import torch
import torch.nn.functional as F
from torch import nn

from pruning.data import Data, Split, eval_batches


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which convolutions and matrix products are computed in `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, split: Split | None = None, *, precision: str = "fp32") -> dict[str, float]:
    """Return top1, top5 (percent) and loss (mean cross-entropy, nats) on `split`, by default the test split.

    The model must be on the device of the data; it is left in evaluation mode.
    """
    model.eval()
    split = data.test if split is None else split
    device = split.images.device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for images, labels in eval_batches(data, split, batch_size=1000 if device.type == "cuda" else 100):
        with autocast(device, precision):
            logits = model(images).float()
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([top[:, 0].sum().double(), top.sum().double(), loss.double()])
    top1, top5, loss_sum = sums.tolist()
    return {"top1": 100 * top1 / len(split), "top5": 100 * top5 / len(split), "loss": loss_sum / len(split)}


def measure(model: nn.Module, data: Data, precision: str) -> dict[str, float]:
    """Return `test_top1 test_top5 test_loss`, and the same of `val` where a part is held out."""
    splits = {"test": data.test} | ({"val": data.val} if data.val else {})
    return {
        f"{name}_{figure}": value
        for name, split in splits.items()
        for figure, value in evaluate(model, data, split, precision=precision).items()
    }
