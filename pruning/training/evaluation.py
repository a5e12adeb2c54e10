"""How good a network is: counted over a whole split, then divided once."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning.data import Data, Split, eval_batches


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which convolutions and matrix products are computed in `precision`.

    On a GPU it also decides, for the whole process from now on, whether float32 products may be rounded to TF32: only
    if `precision` is "tf32". Torch would allow it in convolutions.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def exact(device: torch.device) -> torch.dtype:
    """Return the type in which figures are summed: float64, which Apple's GPUs have not."""
    return torch.float32 if device.type == "mps" else torch.float64


@torch.no_grad()
def predict(
    model: nn.Module, data: Data, split: Split | None = None, *, precision: str = "fp32"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits (float32, N x C) and the labels of the batches of `split`, by default the test split, in order.

    The model must be on the device of the data; it is left in evaluation mode.
    """
    model.eval()
    split = data.test if split is None else split
    device = split.device
    for images, labels in eval_batches(data, split, batch_size=1000 if device.type == "cuda" else 100):
        with autocast(device, precision):
            logits = model(images).float()
        yield logits, labels


def score(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return top1, top5 (percent) and loss (mean cross-entropy, nats) of pairs of logits and labels."""
    sums, n = torch.zeros(3), 0
    for logits, labels in batches:
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        kind = exact(logits.device)
        sums = sums.to(logits.device, kind) + torch.stack([top[:, 0].sum().to(kind), top.sum().to(kind), loss.to(kind)])
        n += len(labels)
    top1, top5, loss_sum = sums.tolist()
    return {"top1": 100 * top1 / n, "top5": 100 * top5 / n, "loss": loss_sum / n}


def evaluate(model: nn.Module, data: Data, split: Split | None = None, *, precision: str = "fp32") -> dict[str, float]:
    """Return top1, top5 (percent) and loss (mean cross-entropy, nats) on `split`, by default the test split.

    The model must be on the device of the data; it is left in evaluation mode.
    """
    return score(predict(model, data, split, precision=precision))


def measure(
    model: nn.Module, data: Data, precision: str, said: list[tuple[Tensor, Tensor]] | None = None
) -> dict[str, float]:
    """Return `test_top1 test_top5 test_loss`, and the same of `val` where a part is held out.

    `said` gets what `predict` yields for the test split.
    """
    said = [] if said is None else said
    said += predict(model, data, precision=precision)
    figures = {"test": score(said)}
    if data.val:
        figures["val"] = evaluate(model, data, data.val, precision=precision)
    return {f"{name}_{figure}": value for name, some in figures.items() for figure, value in some.items()}
