"""How much more do several processes train on one device than one? Prints ratios, side by side, in one run.

    python -m benchmarks.sharing [--arch resnet20 resnet56] [--most 8] [--batch 128] [--steps 150]

All processes are started once; then 1, 2, 4, ... of them train the same number of steps at the same time. On a GPU it
makes the difference whether its multi-process service runs (`nvidia-cuda-mps-control -d`).
"""

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection

import numpy as np
import torch

from benchmarks.train_step import ours, random_data
from pruning.env import Env, device_name


def work(arch: str, batch: int, steps: int, threads: int, orders: Connection) -> None:
    """Train so many steps at each order, until there is none."""
    Env(threads=threads).prepare()
    device = Env().torch_device()
    step = ours(arch, random_data(np.random.default_rng(0), batch * steps, device), batch)
    step(), step()  # warm-up
    orders.send(None)
    while orders.recv():
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        orders.send(None)


def main() -> None:
    """Measure each architecture with more and more processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["resnet20", "resnet56"])
    gpu = torch.cuda.is_available()
    for name, value in (("most", 8 if gpu else 2), ("batch", 128), ("steps", 150 if gpu else 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    threads = max(1, torch.get_num_threads() // options.most)
    counts = [count for count in (1, 2, 4, 8, 16) if count <= options.most]
    print(
        f"{device_name(Env().torch_device())}, batch {options.batch}, {threads} threads each, torch {torch.__version__}"
    )
    print(f"\nimages/s of all processes together, ratio to one\n\n| | {' | '.join(map(str, counts))} |")
    print("|---" * (len(counts) + 1) + "|")
    spawn = multiprocessing.get_context("spawn")
    for arch in options.arch:
        ends = []
        for _ in range(options.most):
            mine, theirs = spawn.Pipe()
            spawn.Process(target=work, args=(arch, options.batch, options.steps, threads, theirs), daemon=True).start()
            ends.append(mine)
        for end in ends:
            end.recv()
        speeds = []
        for count in counts:
            began = time.perf_counter()
            for end in ends[:count]:
                end.send(True)
            for end in ends[:count]:
                end.recv()
            speeds.append(count * options.batch * options.steps / (time.perf_counter() - began))
        for end in ends:
            end.send(False)
        print(f"| {arch} | {' | '.join(f'{speed:.0f}, {speed / speeds[0]:.2f}' for speed in speeds)} |", flush=True)


if __name__ == "__main__":
    main()
