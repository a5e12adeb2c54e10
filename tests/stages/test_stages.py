from dataclasses import replace
from functools import cache

import pytest
import torch
from pruning.cost import cost
from pruning.recipes import FinetuneRecipe, PruneRecipe, TrainRecipe

from pruning import archs, masks
from pruning.checkpoints import Checkpoint
from pruning.data import Data, Split
from pruning.errors import UserError
from pruning.stages import STAGES, Context, finetune, prune, train
from pruning.training import Journal

ONE = TrainRecipe(epochs=1, batch_size=23, lr=0.05, momentum=0.9, weight_decay=5e-4)
PERCENTS = (0.0, 0.001, 0.3, 0.8, 0.95, 0.999)


def context(data: Data, arch: str = "resnet20", parent: Checkpoint | None = None, seed: int = 0) -> Context:
    return Context(arch, len(data.classes), data, seed, "fp32", parent, Journal())


@cache
def untrained(arch: str, classes: int) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(archs.build(arch, classes).state_dict(), {}, arch, classes, {})


def pruned(data: Data, percent: float, arch: str = "resnet20", **settings: str) -> Checkpoint:
    return prune(context(data, arch, untrained(arch, len(data.classes))), PruneRecipe(percent=percent, **settings))


def gone(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return (weights that are exactly +0.0 where the mask is False, prunable weights), checked against the cost."""
    model = checkpoint.load_into(archs.build(checkpoint.arch, checkpoint.num_classes))
    size = (3, 32, 32) if checkpoint.arch.startswith("vgg") else (3, 8, 8)
    counted = cost(model, checkpoint.mask, size)
    zeros = 0
    for name, keep in checkpoint.mask.items():
        left_out = checkpoint.weights[name][~keep]
        assert not left_out.any() and not left_out.signbit().any()
        zeros += left_out.numel()
    assert counted["prunable"] - counted["prunable_nonzero"] == zeros
    assert counted["params"] - counted["params_nonzero"] == zeros
    return zeros, counted["prunable"]


@pytest.mark.parametrize("percent", PERCENTS)
@pytest.mark.parametrize(("arch", "prunable"), [("resnet20", 267_696), ("vgg16", 14_710_464)])
def test_exactly_the_asked_number_of_weights_is_pruned(tiny: Data, arch: str, prunable: int, percent: float) -> None:
    assert gone(pruned(tiny, percent, arch)) == (round(percent * prunable), prunable)


@pytest.mark.parametrize("percent", PERCENTS)
def test_finetuning_keeps_the_number(tiny: Data, percent: float) -> None:
    before = pruned(tiny, percent)
    after = finetune(context(tiny, parent=before), FinetuneRecipe(epochs=1, batch_size=23, lr=0.05, momentum=0.9))
    assert gone(after) == gone(before)
    assert all(torch.equal(after.mask[name], before.mask[name]) for name in before.mask)
    assert not torch.equal(after.weights["fc.weight"], before.weights["fc.weight"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_finetuning_vgg_keeps_the_number(tiny: Data, optimizer: str) -> None:
    split = Split(tiny.train.images[:4].repeat(1, 4, 4, 1), tiny.train.labels[:4])
    few = replace(tiny, train=split, test=split)
    before = pruned(tiny, 0.8, "vgg16")
    recipe = FinetuneRecipe(epochs=1, batch_size=2, lr=0.05, weight_decay=5e-4, optimizer=optimizer)
    after = finetune(context(few, "vgg16", before), recipe)
    assert gone(after) == (round(0.8 * 14_710_464), 14_710_464)
    assert not torch.equal(after.weights["feature.0.weight"], before.weights["feature.0.weight"])


@pytest.mark.parametrize("scope", masks.SCOPES)
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_pruning_again_is_cumulative(tiny: Data, criterion: str, scope: str) -> None:
    first = pruned(tiny, 0.3, criterion=criterion, scope=scope)
    second = prune(context(tiny, parent=first), PruneRecipe(percent=0.8, criterion=criterion, scope=scope))
    assert gone(second) == (round(0.8 * 267_696), 267_696)
    assert all(not (second.mask[name] & ~first.mask[name]).any() for name in first.mask)
    if (criterion, scope) == ("magnitude", "global"):  # one step or two leave the same weights
        at_once = pruned(tiny, 0.8)
        assert all(torch.equal(second.mask[name], at_once.mask[name]) for name in second.mask)


def test_pruning_to_less_than_before_is_refused(tiny: Data) -> None:
    with pytest.raises(UserError, match=r"^prune.percent=0.3 is below the sparsity 0.8000 that the network already"):
        prune(context(tiny, parent=pruned(tiny, 0.8)), PruneRecipe(percent=0.3))


def test_pruning_changes_no_kept_weight_and_nothing_of_its_parent(tiny: Data) -> None:
    parent = untrained("resnet20", 3)
    before = {name: tensor.clone() for name, tensor in parent.weights.items()}
    found = pruned(tiny, 0.8)
    assert parent.mask == {}
    for name, tensor in before.items():
        assert torch.equal(parent.weights[name], tensor)
        keep = found.mask.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(found.weights[name][keep], tensor[keep])


def test_linear_layers_can_be_prunable_too(tiny: Data) -> None:
    assert gone(pruned(tiny, 0.5, layers="conv+linear")) == ((267_696 + 3 * 64) // 2, 267_696 + 3 * 64)


def test_random_pruning_depends_on_the_seed_only(tiny: Data) -> None:
    parent = untrained("resnet20", 3)
    other = replace(parent, weights={name: tensor * 2 for name, tensor in parent.weights.items()})
    recipe = PruneRecipe(percent=0.5, criterion="random")

    def chosen(seed: int, start: Checkpoint = parent, data: Data = tiny) -> torch.Tensor:
        return prune(context(data, parent=start, seed=seed), recipe).mask["conv1.weight"]

    assert torch.equal(chosen(1), chosen(1, other))
    assert torch.equal(chosen(1), chosen(1, data=replace(tiny, train=tiny.test)))
    assert not torch.equal(chosen(1), chosen(2))


def test_training_starts_from_the_seed_and_ends_dense(tiny: Data) -> None:
    none = replace(ONE, epochs=0)
    one, again, other = (train(context(tiny, seed=seed), none) for seed in (0, 0, 1))
    assert torch.equal(one.weights["conv1.weight"], again.weights["conv1.weight"])
    assert not torch.equal(one.weights["conv1.weight"], other.weights["conv1.weight"])
    assert one.mask == {} and one.normalisation == {"mean": list(tiny.mean), "std": list(tiny.std)}
    assert gone(train(context(tiny), ONE)) == (0, 267_696)


def test_every_stage_has_a_recipe() -> None:
    from pruning.plan import CHAINS
    from pruning.recipes import RECIPES

    assert {stage for chain in CHAINS.values() for stage in chain} <= set(STAGES) <= set(RECIPES)
