"""How fast is the training loop? Prints ratios of images/s, measured side by side, in turns, in one run.

    python -m benchmarks.train_step [--arch resnet20 resnet56 ...] [--loop ours fp32 ...] [--batch 128] [--rounds 5]

Loops, each of which trains the same architecture, 80 % pruned unless said, on the same random images:

    usual     as most pruning code has it: PIL transforms in a DataLoader, NCHW, float32, and after each step the mask
              re-derived from the zeros, layer by layer
    ours      that of `pruning.training`, in bf16 where the hardware computes in it
    fp32      the same in float32
    dense     ours, with nothing pruned
    bare      forward, backward, optimizer step on one fixed batch: what our loop would cost without data and masks
    products  the convolutions and linear layers of ours alone, forward and for both gradients: what bounds it
    matrix    as many multiply-adds as those make, in products of large matrices: what the machine can do
    roofline  these, and as many bytes copied as all else in our step reads and writes
    launched  on a GPU: ours without a recorded step
    fastest   on a GPU: ours with whatever algorithm is fastest this time, which gives other bits the next time

A round is a pass over all images; each loop starts and ends it with empty queues, so that nobody's workers decode for
it while another one is timed. Machines are shared and noisy: an absolute time means nothing, the ratio does.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import limits
from pruning import archs, masks, rng
from pruning.data import Data, Split, train_batches
from pruning.env import Env, device_name
from pruning.training import TrainingHooks, TrainRecipe
from pruning.training.loop import TrainingLoop

Images = np.ndarray[Any, np.dtype[np.uint8]]
Round = Callable[[], None]
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


def pruned(arch: str, sparsity: float = 0.8) -> tuple[nn.Module, masks.Mask]:
    """Return a fresh network with that share of its convolution weights pruned, and the mask."""
    model = archs.build(arch, 10)
    archs.initialise(model, rng.generator(0, "init"))
    if not sparsity:
        return model, {}
    weights = dict(model.named_parameters())
    mask = masks.keep_top({name: weights[name].detach().abs() for name in masks.prunable(model)}, sparsity)
    model.load_state_dict(masks.masked(model.state_dict(), mask))
    return model, mask


def usual(arch: str, images: Images, labels: list[int], batch: int, device: torch.device, workers: int) -> Round:
    """Return a pass of the usual loop."""
    model = pruned(arch)[0].to(device).train()
    pictures = Pictures(images, labels)
    loader = DataLoader(pictures, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()

    def pass_() -> None:
        torch.backends.cudnn.allow_tf32 = True  # as torch has it, unless told otherwise
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

    return pass_


def ours(
    arch: str,
    data: Data,
    batch: int,
    *,
    precision: str = "auto",
    sparsity: float = 0.8,
    fixed: bool = False,
    env: Env | None = None,
) -> Round:
    """Return a pass of the loop of `pruning.training`; `fixed`: over one batch, again and again."""
    model, mask = pruned(arch, sparsity)
    env = env or Env()
    loop = made(model, mask, data, batch, env.precision(precision))
    loop.record(env.cuda_graph)
    batches = list(train_batches(data, batch_size=batch, seed=0, epoch=0))

    def pass_() -> None:
        env.choose_algorithms()
        for inputs, targets in batches if fixed else train_batches(data, batch_size=batch, seed=0, epoch=0):
            loop.step(inputs, targets)

    return pass_


def made(model: nn.Module, mask: masks.Mask, data: Data, batch: int, precision: str) -> TrainingLoop:
    """Return our loop, in the middle of a long training."""
    recipe = TrainRecipe(epochs=10**6, batch_size=batch, lr=0.01, momentum=0.9, weight_decay=5e-4)
    loop = TrainingLoop(model, mask, data, recipe, (0, "train"), precision, TrainingHooks())
    loop.model.train()
    return loop


def limit(arch: str, data: Data, batch: int, precision: str, bytes_too: bool) -> Round:
    """Return the multiply-adds of a pass of our loop as products of large matrices, and with its bytes as copies."""
    loop = made(*pruned(arch), data, batch, precision)
    images, labels = next(train_batches(data, batch_size=batch, seed=0, epoch=0))
    operations, moved = limits.counted(lambda: loop.step(images, labels))
    steps, dtype = len(data.train) // batch, torch.bfloat16 if precision == "bf16" else torch.float32
    multiply = limits.products(operations * steps, data.device, dtype)
    copy = limits.copies(moved * steps, data.device) if bytes_too else lambda: None

    def pass_() -> None:
        multiply()
        copy()

    return pass_


def products(arch: str, data: Data, batch: int, precision: str) -> Round:
    """Return the products of a pass: each layer's, on random inputs and gradients, without what is between them."""
    model = pruned(arch)[0].to(data.device).to(memory_format=torch.channels_last)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    shapes: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(lambda m, given, out: shapes.append((m, given[0], out))) for layer in layers]
    images, _ = next(train_batches(data, batch_size=batch, seed=0, epoch=0))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    model.to(dtype)

    def product(layer: nn.Module, given: torch.Tensor, out: torch.Tensor) -> Callable[[], object]:
        image = given.shape[1] == 3  # needs no gradient
        inputs, gradient = (
            torch.randn_like(given, dtype=dtype, requires_grad=not image),
            torch.randn_like(out, dtype=dtype),
        )
        wanted = [*layer.parameters(), *([] if image else [inputs])]
        return lambda: torch.autograd.grad(layer(inputs), wanted, gradient)

    calls = [product(*shape) for shape in shapes]
    steps = len(data.train) // batch

    def pass_() -> None:
        for call in calls * steps:
            call()

    return pass_


def random_data(noise: np.random.Generator, count: int, device: torch.device) -> Data:
    """Return so many random images of ten classes, to train and to test on."""
    pixels = torch.from_numpy(noise.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
    split = Split(pixels, torch.from_numpy(noise.integers(0, 10, count))).to(device)
    return Data(split, None, split, tuple("0123456789"), MEAN, STD, pad=4, flip=True)


def loops(arch: str, data: Data, options: argparse.Namespace) -> dict[str, Round]:
    """Return a pass of each loop, by its name."""
    images, labels = data.train.images.cpu().numpy(), data.train.labels.tolist()
    device = data.device
    found: dict[str, Callable[[], Round]] = {
        "usual": lambda: usual(arch, images, labels, options.batch, device, options.workers),
        "ours": lambda: ours(arch, data, options.batch),
        "fp32": lambda: ours(arch, data, options.batch, precision="fp32"),
        "dense": lambda: ours(arch, data, options.batch, sparsity=0),
        "bare": lambda: ours(arch, data, options.batch, sparsity=0, fixed=True),
        "products": lambda: products(arch, data, options.batch, Env().precision("auto")),
        "matrix": lambda: limit(arch, data, options.batch, Env().precision("auto"), bytes_too=False),
        "roofline": lambda: limit(arch, data, options.batch, Env().precision("auto"), bytes_too=True),
        "launched": lambda: ours(arch, data, options.batch, env=Env(cuda_graph=False)),
        "fastest": lambda: ours(arch, data, options.batch, env=Env(deterministic=False)),
    }
    return {name: found[name]() for name in options.loop}


def seconds(pass_: Round) -> float:
    """Return the time of a pass, until the device is done."""
    began = time.perf_counter()
    pass_()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def row(arch: str, times: dict[str, list[float]], images: int) -> str:
    """Return the medians of the rounds: images/s of each loop, and its ratio to the first with lowest and highest."""
    first, cells = next(iter(times.values())), []
    for each in times.values():
        ratios = sorted(a / b for a, b in zip(first, each, strict=True))
        spread = "" if each is first else f", {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        cells.append(f"{images / statistics.median(each):.0f}{spread}")
    return " | ".join(["", arch, *cells, ""]).strip()


def main() -> None:
    """Measure the loops in turns, architecture by architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["resnet20", "resnet56", "resnet110", "preresnet110", "vgg16"])
    gpu = ["launched", "fastest"] if torch.cuda.is_available() else []
    parser.add_argument(
        "--loop", nargs="+", default=["usual", "ours", "fp32", "dense", "bare", "products", "matrix", "roofline", *gpu]
    )
    for name, value in (("batch", 128), ("rounds", 5), ("steps", 50 if gpu else 4), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    Env().prepare()
    about = f"{device_name(Env().torch_device())}, {torch.get_num_threads()} threads, {options.workers} loader workers"
    print(f"{about}, batch {options.batch}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")
    print(f"images/s, ratio to {options.loop[0]} (lowest to highest of {options.rounds} rounds)\n")
    print(" | ".join(["", "", *options.loop, ""]).strip(), "|---" * (len(options.loop) + 1) + "|", sep="\n")
    count = options.batch * options.steps
    data = random_data(np.random.default_rng(0), count, Env().torch_device())
    for arch in options.arch:
        passes = loops(arch, data, options)
        for each in [*passes.values()] * 2:  # warm-up
            seconds(each)
        rounds = [[seconds(each) for each in passes.values()] for _ in range(options.rounds)]
        print(row(arch, dict(zip(passes, map(list, zip(*rounds, strict=True)), strict=True)), count), flush=True)


if __name__ == "__main__":
    main()
