"""How much faster is the training loop than the usual one? Prints ratios measured side by side, in turns, in one run.

    python benchmarks/train_step.py [--arch resnet20 resnet56 preresnet110 vgg16] [--batch 128] [--rounds 5]

The usual loop is written out below as it stands in most pruning code: PIL transforms in a DataLoader, NCHW, float32,
and after each step the mask re-derived from the zeros, layer by layer. Both train the same architecture, 80 % pruned,
on the same random images. Machines are shared and noisy: an absolute time means nothing, the ratio does.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pruning import archs, masks, rng
from pruning.data import Data, Split, train_batches
from pruning.env import Env, device_name
from pruning.training import TrainingHooks, TrainRecipe
from pruning.training.loop import TrainingLoop

IMAGES = 2_000
Images = np.ndarray[Any, np.dtype[np.uint8]]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Pictures(Dataset[Any]):
    """PIL images and labels with the usual transforms."""

    def __init__(self, images: Images, labels: list[int]) -> None:
        steps = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def pruned(arch: str) -> tuple[nn.Module, masks.Mask]:
    """Return a fresh network with 80 % of its convolution weights pruned, and the mask."""
    model = archs.build(arch, 10)
    archs.initialise(model, rng.generator(0, "init"))
    weights = dict(model.named_parameters())
    mask = masks.keep_top({name: weights[name].detach().abs() for name in masks.prunable(model)}, 0.8)
    model.load_state_dict(masks.masked(model.state_dict(), mask))
    return model, mask


def usual(arch: str, images: Images, labels: list[int], batch: int, device: str, workers: int) -> Iterator[None]:
    """Yield after each step of the usual loop."""
    model = pruned(arch)[0].to(device).train()
    loader = DataLoader(Pictures(images, labels), batch, shuffle=True, num_workers=workers, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()
    while True:
        for inputs, targets in loader:
            inputs, targets = inputs.to(device), targets.to(device)
            loss = criterion(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            for module in model.modules():
                if isinstance(module, nn.Conv2d) and module.weight.grad is not None:
                    module.weight.grad.mul_(module.weight.data.abs().gt(0).float())
            optimizer.step()
            loss.item()
            yield


def ours(arch: str, images: Images, labels: list[int], batch: int, device: str) -> Iterator[None]:
    """Yield after each step of the loop of `pruning.training`."""
    model, mask = pruned(arch)
    split = Split(torch.from_numpy(images), torch.tensor(labels)).to(device)
    data = Data(split, None, split, tuple("0123456789"), MEAN, STD, pad=4, flip=True)
    recipe = TrainRecipe(epochs=10**6, batch_size=batch, lr=0.01, momentum=0.9, weight_decay=5e-4)
    loop = TrainingLoop(model, mask, data, recipe, (0, "train"), Env(device=device).precision("auto"), TrainingHooks())
    loop.model.train()
    for epoch in itertools.count():
        for inputs, targets in train_batches(data, batch_size=batch, seed=0, epoch=epoch):
            loop.step(inputs, targets)
            yield


def seconds(steps: Iterator[None], count: int, device: str) -> float:
    """Return the time of `count` steps."""
    began = time.perf_counter()
    for _ in range(count):
        next(steps)
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Measure both loops in turns, architecture by architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["resnet20", "resnet56", "preresnet110", "vgg16"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps of each loop in a round")
    parser.add_argument("--workers", type=int, default=2, help="DataLoader workers of the usual loop")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    Env().prepare()
    about = f"{device_name(torch.device(device))}, {torch.get_num_threads()} threads"
    print(f"{about}, batch {options.batch}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    labels = noise.integers(0, 10, IMAGES).tolist()
    print(
        f"{'':14}{'ours':>10}{'usual':>10}{'ratio':>8}   (images/s, medians of {options.rounds} rounds; ratio by round)"
    )
    for arch in options.arch:
        fast = ours(arch, images, labels, options.batch, device)
        slow = usual(arch, images, labels, options.batch, device, options.workers)
        seconds(fast, 2, device), seconds(slow, 2, device)  # warm-up
        times = [
            (seconds(fast, options.steps, device), seconds(slow, options.steps, device)) for _ in range(options.rounds)
        ]
        images_of_round = options.batch * options.steps
        ratio = statistics.median(b / a for a, b in times)
        a, b = (images_of_round / statistics.median(column) for column in zip(*times, strict=True))
        print(f"{arch:14}{a:10.0f}{b:10.0f}{ratio:8.2f}   {' '.join(f'{y / x:.2f}' for x, y in times)}", flush=True)


if __name__ == "__main__":
    main()
