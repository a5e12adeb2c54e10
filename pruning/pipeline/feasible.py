"""Whether the network can work on the images at all, in the batches that the steps will make."""

from collections.abc import Iterable

from pruning import archs, data
from pruning.errors import UserError
from pruning.runs import Step


def check(steps: Iterable[Step], images: data.Info, held: float, recipes: dict[str, int]) -> None:
    """Raise a UserError where the network of a step cannot take the images, or BatchNorm would get a single value.

    `held` is the fraction of the training images held out; `recipes` has the batch size of each stage that trains.
    """
    if (size := images.size) is None:
        return
    for step in steps:
        name = step.arch["name"]
        if why := archs.problem(step.network, step.num_classes, size, 2):
            text = f"the images of dataset={step.dataset['name']}, which are {size[1]}x{size[0]} pixels"
            ours = "; make them 32x32, or choose another network"
            raise UserError(f"arch={name} cannot take {text}{ours if name == step.network else f': {why}'}")
        batch = recipes.get(step.stage)
        if batch is None or not step.epochs or images.per_class is None:
            continue
        n = sum(images.per_class) - sum(data.held_out(held, images.per_class))
        smallest = n // data.steps_per_epoch(n, batch)
        if smallest == 1 and archs.problem(step.network, step.num_classes, size, 1):
            raise UserError(
                f"{step.stage}.batch_size={batch} leaves a batch of a single image of the {n}, on which the BatchNorm "
                f"of {name} cannot train; give another batch size"
            )
