"""How fast are the weights to prune selected? Prints ratios to a sort, measured side by side, in turns, in one run.

    python benchmarks/prune_select.py [--arch vgg16] [--sparsity 0.8] [--rounds 5]

All select the smallest weights of a network in one threshold: `sort` and `topk` as most pruning code does, torch's own
`torch.nn.utils.prune.global_unstructured` (which cannot be asked for an exact count twice: it starts anew each time),
and `keep_top`, whose masks are exact, ties included. Machines are shared and noisy: an absolute time means nothing.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import prune

from pruning import archs, masks, rng
from pruning.env import Env, device_name


def by_sort(weights: list[torch.Tensor], sparsity: float) -> list[torch.Tensor]:
    """Keep what is above the score at that rank of all."""
    flat = torch.cat([weight.abs().flatten() for weight in weights])
    threshold = flat.sort().values[round(sparsity * len(flat)) - 1]
    return [weight.abs() > threshold for weight in weights]


def by_topk(weights: list[torch.Tensor], sparsity: float) -> list[torch.Tensor]:
    """The same from the lowest ones only."""
    flat = torch.cat([weight.abs().flatten() for weight in weights])
    threshold = flat.topk(round(sparsity * len(flat)), largest=False).values.max()
    return [weight.abs() > threshold for weight in weights]


def by_torch(layers: list[nn.Module], sparsity: float) -> None:
    """Prune by torch's own functions, and take it back."""
    pairs = [(layer, "weight") for layer in layers]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=sparsity)
    for layer, name in pairs:
        prune.remove(layer, name)


def seconds(select: Callable[[], object]) -> float:
    """Return the time of one selection."""
    began = time.perf_counter()
    select()
    return time.perf_counter() - began


def main() -> None:
    """Measure all in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vgg16")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    Env().prepare()
    model = archs.build(options.arch, 10)
    archs.initialise(model, rng.generator(0, "init"))
    scores = {name: model.get_parameter(name).detach().abs() for name in masks.prunable(model)}
    weights = list(scores.values())
    layers = [model.get_submodule(name.rpartition(".")[0]) for name in scores]
    ways: dict[str, Callable[[], object]] = {
        "sort": lambda: by_sort(weights, options.sparsity),
        "topk": lambda: by_topk(weights, options.sparsity),
        "torch.nn.utils.prune": lambda: by_torch(layers, options.sparsity),
        "keep_top": lambda: masks.keep_top(scores, options.sparsity),
    }
    count = sum(weight.numel() for weight in weights)
    print(f"{device_name(torch.device('cpu'))}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"\n{count:,} weights of {options.arch}, sparsity {options.sparsity:g}\n")
    print("| | ms | times as fast as a sort |\n|---|---|---|")
    for select in ways.values():
        seconds(select)  # warm-up
    rounds = [[seconds(select) for select in ways.values()] for _ in range(options.rounds)]
    for index, name in enumerate(ways):
        ratios = sorted(times[0] / times[index] for times in rounds)
        median = statistics.median(times[index] for times in rounds)
        print(
            f"| {name} | {1000 * median:.1f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )


if __name__ == "__main__":
    main()
