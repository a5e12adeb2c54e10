"""What does it cost to keep pruned weights at zero? Prints ratios to dense training, in turns, in one run.

    python -m benchmarks.masking [--arch resnet20 vgg16] [--batch 128] [--steps 4] [--rounds 5]

Ways, each of which makes the same training steps of our loop on the same images:

    dense                    nothing is pruned
    ours                     80 % pruned; the bits of pruned weights are set to zero after each optimizer step
    torch.nn.utils.prune     80 % pruned by its parametrisation: each forward pass multiplies the weights by the mask
    from the zeros           80 % pruned as most code has it: the mask is made anew from the zeros after each step

Below the table: which share of our step the optimizer takes, and which setting pruned weights to zero. Torch-Pruning
removes whole channels, so it keeps no zeros and is not among them.
"""

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from benchmarks.train_step import pruned, random_data
from benchmarks.turns import about, in_turns, seconds, table
from pruning import masks
from pruning.data import Data, train_batches
from pruning.env import Env
from pruning.training import TrainingHooks, TrainRecipe
from pruning.training.loop import TrainingLoop


def looped(model: nn.Module, mask: masks.Mask, data: Data, batch: int) -> TrainingLoop:
    """Return our loop around the network."""
    recipe = TrainRecipe(epochs=10**6, batch_size=batch, lr=0.01, momentum=0.9, weight_decay=5e-4)
    loop = TrainingLoop(model, mask, data, recipe, (0, "train"), Env().precision("auto"), TrainingHooks())
    loop.model.train()
    return loop


def parametrised(arch: str) -> nn.Module:
    """Return the pruned network as torch.nn.utils.prune has it."""
    model, mask = pruned(arch)
    for name, keep in mask.items():
        prune.custom_from_mask(model.get_submodule(name.rpartition(".")[0]), "weight", keep)
    return model


def from_zeros(loop: TrainingLoop) -> Callable[[], None]:
    """Return what gives each convolution the zeros that it had before the step."""
    layers = [module for module in loop.model.modules() if isinstance(module, nn.Conv2d)]
    kept = [layer.weight.detach().ne(0).float() for layer in layers]

    @torch.no_grad()
    def enforce() -> None:
        for layer, keep in zip(layers, kept, strict=True):
            layer.weight.mul_(keep)
            keep.copy_(layer.weight.ne(0).float())

    return enforce


def passes(arch: str, data: Data, batch: int) -> tuple[dict[str, Callable[[], object]], TrainingLoop]:
    """Return a pass over the images for each way, and our loop."""
    ours = looped(*pruned(arch), data, batch)
    zeros = looped(pruned(arch)[0], {}, data, batch)
    zeros.enforce = from_zeros(zeros)
    loops = {
        "dense": looped(*pruned(arch, 0), data, batch),
        "ours": ours,
        "torch.nn.utils.prune": looped(parametrised(arch), {}, data, batch),
        "from the zeros": zeros,
    }

    def of(loop: TrainingLoop) -> Callable[[], object]:
        def pass_() -> None:
            for images, labels in train_batches(data, batch_size=batch, seed=0, epoch=0):
                loop.step(images, labels)

        return pass_

    return {name: of(loop) for name, loop in loops.items()}, ours


def main() -> None:
    """Measure all in turns, architecture by architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["resnet20", "vgg16"])
    for name, value in (("batch", 128), ("steps", 4), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    Env().prepare()
    data = random_data(np.random.default_rng(0), options.batch * options.steps, Env().torch_device())
    print(f"{about()}\n\nbatch {options.batch}")
    for arch in options.arch:
        ways, loop = passes(arch, data, options.batch)
        times = in_turns(ways, options.rounds)
        step = statistics.median(times["ours"]) / options.steps
        update, enforce = (
            statistics.median(seconds(part) for _ in range(50)) / step for part in (loop.update, loop.enforce)
        )
        print(
            f"\n{arch}\n\n{table(times)}\n\nof a step of ours: optimizer {update:.1%}, zeros {enforce:.1%}", flush=True
        )


if __name__ == "__main__":
    main()
