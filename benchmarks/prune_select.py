"""How fast are the weights to prune selected? Prints ratios to a sort, measured side by side, in turns, in one run.

    python -m benchmarks.prune_select [--arch vgg16] [--sparsity 0.8] [--rounds 5]

All select the smallest weights of a network in one threshold: `sort` and `topk` as most pruning code does, torch's own
`torch.nn.utils.prune.global_unstructured` (which cannot be asked for an exact count twice: it starts anew each time),
and `keep_top`, whose masks are exact, ties included. Machines are shared and noisy: an absolute time means nothing.
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks.turns import about, in_turns, table
from pruning import archs, masks, rng
from pruning.env import Env


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
    print(f"{about()}\n\n{count:,} weights of {options.arch}, sparsity {options.sparsity:g}\n")
    print(table(in_turns(ways, options.rounds)))


if __name__ == "__main__":
    main()
