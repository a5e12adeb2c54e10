"""How fast are the batches, by themselves? Prints ratios to the usual loader, in turns, in one run.

    python -m benchmarks.data [--images 5000] [--batch 128] [--rounds 5] [--workers 2]

Each makes the batches of one epoch: shuffled, cropped, flipped and normalised; the usual ones by PIL transforms in a
DataLoader, with worker processes and without. Machines are shared and noisy: an absolute time means nothing.
"""

import argparse

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.train_step import Pictures, random_data
from benchmarks.turns import about, in_turns, table
from pruning.data import eval_batches, train_batches
from pruning.env import Env


def main() -> None:
    """Measure all in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 5000), ("batch", 128), ("rounds", 5), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    Env().prepare()
    device = Env().torch_device()
    data = random_data(np.random.default_rng(0), options.images, device)
    pictures = Pictures(data.train.images.cpu().numpy(), data.train.labels.tolist())
    workers = DataLoader(pictures, options.batch, shuffle=True, num_workers=options.workers, persistent_workers=True)
    alone = DataLoader(pictures, options.batch, shuffle=True)

    def usual(loader: DataLoader[tuple[torch.Tensor, int]]) -> None:
        for images, labels in loader:
            images.to(device), labels.to(device)

    ways = {
        f"usual, {options.workers} workers": lambda: usual(workers),
        "usual, no workers": lambda: usual(alone),
        "ours": lambda: list(map(len, train_batches(data, batch_size=options.batch, seed=0, epoch=0))),
        "ours, to test on": lambda: list(map(len, eval_batches(data, data.test, batch_size=options.batch))),
    }
    print(f"{about()}\n\n{options.images} images of 32x32, batch {options.batch}\n")
    print(table(in_turns(ways, options.rounds)))


if __name__ == "__main__":
    main()
