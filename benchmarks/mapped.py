"""How fast is training when the images do not fit? Prints the ratio to resident images, in turns, in one run.

    python benchmarks/mapped.py [--arch resnet20] [--size 64] [--images 20000] [--batch 128] [--rounds 5]

The images lie in a file and are random; before each round on the file the kernel is told to forget it, so that every
image comes from the disk once, as it does when the memory is too small to keep them. Machines are shared and noisy: an
absolute time means nothing, the ratio does.
"""

import argparse
import ctypes
import itertools
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pruning import archs, rng
from pruning.data import Data, DatasetSettings, load_data, train_batches
from pruning.env import Env, device_name
from pruning.training import TrainingHooks, TrainRecipe
from pruning.training.loop import TrainingLoop

MADV_DONTNEED = 4


def written(folder: Path, count: int, size: int) -> Path:
    """Write a set of random images as mapped arrays, a part at a time."""
    draw = np.random.default_rng(0)
    for part, n in (("train", count), ("test", 100)):
        whole = np.lib.format.open_memmap(folder / f"x_{part}.npy", "w+", np.uint8, (n, size, size, 3))
        for start in range(0, n, 1000):
            whole[start : start + 1000] = draw.integers(0, 256, whole[start : start + 1000].shape, dtype=np.uint8)
        whole.flush()
        np.save(folder / f"y_{part}.npy", np.arange(n) % 10)
    return folder


def forget(data: Data, folder: Path) -> None:
    """Have the kernel forget what it keeps of the file."""
    images = data.train.images
    start = images.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(images.nbytes), MADV_DONTNEED)
    for path in folder.glob("*.npy"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def steps(arch: str, data: Data, batch: int, env: Env) -> Iterator[None]:
    """Train for ever, a step at a time."""
    model = archs.build(arch, 10)
    archs.initialise(model, rng.generator(0, "init"))
    recipe = TrainRecipe(epochs=10**6, batch_size=batch, lr=0.01, momentum=0.9)
    loop = TrainingLoop(model, {}, data, recipe, (0, "train"), env.precision("auto"), TrainingHooks())
    loop.model.train()
    for epoch in itertools.count():
        for images, labels in train_batches(data, batch_size=batch, seed=0, epoch=epoch):
            loop.step(images, labels)
            yield


def seconds(loop: Iterator[None], count: int, device: torch.device) -> float:
    """Return the time of `count` steps."""
    began = time.perf_counter()
    for _ in range(count):
        next(loop)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Measure both in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet20")
    for name, value in (("size", 64), ("images", 40_000), ("batch", 128), ("rounds", 5), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    env = Env()
    env.prepare()
    device = env.torch_device()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:  # not where files are in memory
        folder = written(Path(place), options.images, options.size)
        settings = DatasetSettings(name="arrays", file=str(folder), pad=4, flip=True)
        here, there = (load_data(settings, device=device, resident_gb=limit) for limit in (1e6, 0))
        here = replace(here, train=replace(here.train, images=here.train.images.clone()))  # on the CPU it is mapped too
        size = options.images * options.size**2 * 3 / 1e9
        print(f"{device_name(device)}, {options.arch}, batch {options.batch}, {size:.2f} GB, torch {torch.__version__}")
        mapped, resident = (steps(options.arch, data, options.batch, env) for data in (there, here))
        seconds(mapped, 3, device), seconds(resident, 3, device)  # warm-up
        ratios = []
        for _ in range(options.rounds):
            forget(there, folder)
            slow = seconds(mapped, options.steps, device)
            ratios.append(seconds(resident, options.steps, device) / slow)
            print(f"{ratios[-1]:.3f} of the resident speed", flush=True)
        print(f"median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
