"""How fast is a network tested? Prints ratios to the usual way, in turns, in one run.

    python -m benchmarks.evaluate [--arch resnet20 resnet56 ...] [--images 2000] [--rounds 5] [--workers 2]

Ways, each of which finds top-1, top-5 and loss of the same network on the same random images:

    usual     PIL transforms in a DataLoader, NCHW, float32
    ours      that of `pruning.training`, in bf16 where the hardware computes in it
    fp32      the same in float32
    folded    ours, with each BatchNorm that follows a convolution folded into it (by torch.fx): what that would gain

Machines are shared and noisy: an absolute time means nothing, the ratio does.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.train_step import MEAN, STD, Pictures, pruned, random_data
from benchmarks.turns import about, in_turns, table
from pruning.data import Data
from pruning.env import Env
from pruning.training import evaluate


def usual(arch: str, data: Data, workers: int) -> Callable[[], None]:
    """Return a pass over all images in the usual way."""
    model = pruned(arch)[0].to(data.device).eval()
    pictures = Pictures(data.test.images.cpu().numpy(), data.test.labels.tolist())
    pictures.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    loader = DataLoader(pictures, 100, num_workers=workers, persistent_workers=workers > 0)

    @torch.no_grad()
    def pass_() -> None:
        right = loss = 0.0
        for images, labels in loader:
            logits = model(images.to(data.device))
            targets = labels.to(data.device)
            right += (logits.topk(5, 1).indices == targets[:, None]).sum().item()
            loss += F.cross_entropy(logits, targets, reduction="sum").item()

    return pass_


def ours(model: nn.Module, data: Data, precision: str) -> Callable[[], object]:
    """Return a pass over all images as a run makes it."""
    model = model.to(data.device).to(memory_format=torch.channels_last)
    return lambda: evaluate(model, data, precision=precision)


def main() -> None:
    """Measure all in turns, architecture by architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["resnet20", "resnet56", "resnet110", "preresnet110", "vgg16"])
    for name, value in (("images", 2000), ("rounds", 5), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    Env().prepare()
    device, precision = Env().torch_device(), Env().precision("auto")
    data = random_data(np.random.default_rng(0), options.images, device)
    print(f"{about()}\n\n{options.images} images of 32x32")
    for arch in options.arch:
        model = pruned(arch)[0].eval()
        kinds = {"ours": (model, precision), "fp32": (model, "fp32"), "folded": (fuse(model), precision)}
        ways: dict[str, Callable[[], object]] = {"usual": usual(arch, data, options.workers)}
        ways |= {name: ours(network, data, kind) for name, (network, kind) in kinds.items()}
        print(f"\n{arch}\n\n{table(in_turns(ways, options.rounds))}", flush=True)


if __name__ == "__main__":
    main()
