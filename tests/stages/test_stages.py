import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from pruning import archs, masks
from pruning.checkpoints import Checkpoint
from pruning.data import Data, Split, train_batches
from pruning.errors import UserError
from pruning.masks import CRITERIA, SCOPES, Criterion, Scores, Scoring
from pruning.masks.scopes import Groups
from pruning.stages import STAGES, Context, DistillRecipe, Inputs, PruneRecipe
from pruning.stages.init import InitRecipe
from pruning.stages.retrain import RewindRecipe, ScratchBRecipe
from pruning.training import TrainingHooks, TrainRecipe
from tests.helpers import equal

STILL: dict[str, Any] = {"epochs": 1, "batch_size": 23, "lr": 1e-30}
ONE = TrainRecipe(epochs=1, batch_size=23, lr=0.05, momentum=0.9, weight_decay=5e-4)
PRUNABLE = {"resnet20": 267_696, "vgg16": 14_710_464}


def run(stage: str, data: Data, recipe: Any, parent: Checkpoint | None = None, seed: int = 0) -> Checkpoint:
    arch = parent.arch if parent else "resnet20"
    return STAGES[stage].run(Context(arch, len(data.classes), data, seed, "fp32", parent), recipe)


@cache
def untrained(arch: str = "resnet20") -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(archs.build(arch, 3).state_dict(), {}, arch, 3, {})


def pruned(data: Data, parent: Checkpoint, sparsity: float, seed: int = 0, **settings: Any) -> Checkpoint:
    return run("prune", data, PruneRecipe(sparsity=sparsity, **settings), parent, seed)


def gone(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return (weights that are exactly +0.0 where the mask is False, prunable weights), checked against the cost."""
    size = 32 if checkpoint.arch == "vgg16" else 8
    counted = masks.cost(checkpoint.network(), checkpoint.mask, (3, size, size))
    left_out = [checkpoint.weights[name][~keep] for name, keep in checkpoint.mask.items()]
    assert not any((weights != 0).any() or weights.signbit().any() for weights in left_out)
    zeros = sum(weights.numel() for weights in left_out)
    assert {counted[kind] - counted[f"{kind}_nonzero"] for kind in ("prunable", "params")} == {zeros}
    return zeros, counted["prunable"]


@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.3, 0.95, 0.999, "vgg16"])
def test_exactly_the_asked_number_of_weights_is_pruned_and_finetuning_keeps_it(tiny: Data, sparsity: Any) -> None:
    data, recipe, arch = tiny, ONE, "resnet20"
    if sparsity == "vgg16":
        few = Split(tiny.train.images[:4].repeat(1, 4, 4, 1), tiny.train.labels[:4])
        data, recipe, arch, sparsity = replace(tiny, train=few, test=few), replace(ONE, batch_size=2), "vgg16", 0.8
    before = pruned(tiny, untrained(arch), sparsity)
    assert gone(before) == (round(sparsity * PRUNABLE[arch]), PRUNABLE[arch])
    assert equal(run("finetune", data, replace(recipe, epochs=0), before).weights, before.weights)
    after = run("finetune", data, recipe, before)
    assert gone(after) == gone(before)
    assert equal(after.mask, before.mask)
    first = next(iter(before.weights))
    assert not torch.equal(after.weights[first], before.weights[first])


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_pruning_again_is_cumulative(tiny: Data, criterion: str, scope: str) -> None:
    first = pruned(tiny, untrained(), 0.3, criterion=criterion, scope=scope)
    second = pruned(tiny, first, 0.8, seed=1, criterion=criterion, scope=scope)
    assert gone(second) == (round(0.8 * PRUNABLE["resnet20"]), PRUNABLE["resnet20"])
    assert all(not (second.mask[name] & ~first.mask[name]).any() for name in first.mask)
    if scope == "layer":
        assert all(abs(int((~keep).sum()) - 0.8 * keep.numel()) < 1 for keep in second.mask.values())
    elif scope == "global" and criterion == "magnitude":  # one step or two leave the same weights
        assert equal(second.mask, pruned(tiny, untrained(), 0.8).mask)


def test_controls_are_settings(tiny: Data) -> None:
    usual, shuffled, inverted = (
        pruned(tiny, untrained(), 0.8, control=c).mask for c in ("none", "shuffled", "inverted")
    )
    assert {name: int(keep.sum()) for name, keep in shuffled.items()} == {k: int(v.sum()) for k, v in usual.items()}
    assert not equal(usual, shuffled)
    assert sum(int((usual[name] & inverted[name]).sum()) for name in usual) == 0  # 20 % and the other 20 %


def test_pruning_changes_no_kept_weight_and_nothing_of_its_parent(tiny: Data) -> None:
    parent = untrained()
    before = copy.deepcopy(parent.weights)
    found = pruned(tiny, parent, 0.8)
    assert (parent.mask, equal(parent.weights, before)) == ({}, True)
    assert equal(found.weights, masks.masked(before, found.mask))


def test_what_is_prunable_is_a_setting_and_other_layers_stay_pruned(tiny: Data) -> None:
    total = PRUNABLE["resnet20"] + 3 * 64
    assert gone(pruned(tiny, untrained(), 0.5, layers="conv+linear")) == (total // 2, total)
    convolutions = pruned(tiny, untrained(), 0.8)
    both = pruned(tiny, convolutions, 0.5, layers="linear")
    assert gone(both) == (gone(convolutions)[0] + 96, total)


def test_random_pruning_depends_on_the_seed_only(tiny: Data) -> None:
    other = replace(untrained(), weights={name: tensor * 2 for name, tensor in untrained().weights.items()})
    cases = ((tiny, untrained(), 1), (replace(tiny, train=tiny.test), other, 1), (tiny, untrained(), 2))
    one, same, another = (pruned(data, parent, 0.5, seed, criterion="random").mask for data, parent, seed in cases)
    assert equal(one, same)
    assert not equal(one, another)


def test_criterion_and_scope_have_their_settings_and_a_criterion_the_training_batches_of_the_seed(
    tiny: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def looking(given: Scoring, *, power: float = 1.0) -> Scores:
        seen.append(power)
        for _ in range(2):  # the same ones each time
            expected = train_batches(tiny, batch_size=128, seed=5, epoch=0)
            for (images, labels), (x, y) in zip(given.batches, expected, strict=True):
                assert torch.equal(images, x) and torch.equal(labels, y)  # noqa: PT018
        return {name: weight.abs() ** power for name, weight in given.weights.items()}

    def reserved(shapes: Mapping[str, torch.Size], total: int, _: object, *, dense: int = 0) -> Groups:
        names = list(shapes)
        return {tuple(names[:dense]): 0, tuple(names[dense:]): total}

    monkeypatch.setitem(CRITERIA, "looking", Criterion(looking, rounds=2))
    monkeypatch.setitem(SCOPES, "reserved", reserved)
    node = {"percent": 0.5, "criterion": "looking", "power": 2, "scope": "reserved", "dense": 3}
    found = run("prune", tiny, PruneRecipe.read(node, "prune"), untrained(), seed=5)
    assert seen == [2.0, 2.0]  # in each round
    assert gone(found)[0] == PRUNABLE["resnet20"] // 2
    assert [bool(keep.all()) for keep in found.mask.values()] == [True] * 3 + [False] * (len(found.mask) - 3)


def test_training_starts_from_the_seed_and_ends_dense(tiny: Data) -> None:
    none = replace(ONE, epochs=0)
    one, same, other = (run("train", tiny, none, seed=seed).weights["conv1.weight"] for seed in (0, 0, 1))
    found = run("train", tiny, ONE)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, found.weights["conv1.weight"])
    assert (found.mask, found.normalisation) == ({}, {"mean": list(tiny.mean), "std": list(tiny.std)})


def test_a_stage_that_needs_a_parent_says_so(tiny: Data) -> None:
    recipe: Any
    for stage, recipe in (("prune", PruneRecipe(sparsity=0.5)), ("finetune", ONE)):
        with pytest.raises(ValueError, match="starts from a parent, and none was given"):
            run(stage, tiny, recipe)


def test_inputs_are_read_each_time_they_are_asked_for() -> None:
    read: list[str] = []

    def teacher() -> Checkpoint:
        read.append("teacher")
        return untrained()

    inputs = Inputs({"dense": untrained, "teacher": teacher})
    assert (list(inputs), len(inputs), read) == (["dense", "teacher"], 2, [])
    assert inputs["teacher"] is inputs["teacher"] is untrained()
    assert (read, bool(Inputs())) == (["teacher", "teacher"], False)


def test_rewinding_goes_back_to_the_initialisation_of_the_dense_network_and_scratch_to_another(tiny: Data) -> None:
    """Trained at a rate of almost 0, the weights are what they began as."""
    still = TrainRecipe(**STILL)
    dense = run("train", tiny, ONE)
    began = run("train", tiny, still)
    cut = pruned(tiny, dense, 0.8)
    recipes = {"lr_rewind": still, "rewind": RewindRecipe(**STILL), "scratch_e": still}
    found = {stage: run(stage, tiny, recipe, cut) for stage, recipe in recipes.items()}
    names = [name for name, value in cut.weights.items() if value.ndim > 1]  # a bias of 0 moves at any rate
    wanted = masks.masked(began.weights, cut.mask)
    assert all(torch.equal(found["rewind"].weights[name], wanted[name]) for name in names)
    assert all(torch.equal(found["lr_rewind"].weights[name], cut.weights[name]) for name in names)
    for stage, made in found.items():
        assert equal(made.mask, cut.mask)
        masks.check(made.mask, made.weights)
        if stage == "scratch_e":
            assert not torch.equal(made.weights["conv1.weight"], found["rewind"].weights["conv1.weight"])


def test_rewinding_to_an_epoch_starts_from_what_was_kept_with_its_buffers(tiny: Data) -> None:
    start, cut = run("train", tiny, ONE), pruned(tiny, run("train", tiny, replace(ONE, epochs=2)), 0.8)
    context = Context("resnet20", 3, tiny, 0, "fp32", cut, Inputs({"start": lambda: start}))
    hooks = Counting()
    recipe = RewindRecipe(epochs=3, epoch=2, batch_size=23, lr=1e-30)
    made = STAGES["rewind"].run(replace(context, hooks=hooks), recipe)
    wanted = masks.masked(start.weights, cut.mask)
    assert hooks.lengths == [recipe.length] == [1]
    assert all(torch.equal(made.weights[name], wanted[name]) for name, value in wanted.items() if value.ndim > 1)
    assert made.weights["bn1.num_batches_tracked"] == start.weights["bn1.num_batches_tracked"] + 2
    assert equal(made.mask, cut.mask)
    with pytest.raises(UserError, match=r"^epoch must be below epochs=3, of which those after it are trained, got 3"):
        replace(recipe, epoch=3)


class Counting(TrainingHooks):
    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.notes: list[str] = []

    def length(self, epochs: int) -> None:
        self.lengths.append(epochs)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(("most", "noted"), [(None, True), (3, True), (100, False), (0, True)])
def test_scratch_b_trains_until_it_took_the_multiply_adds_of_the_dense_network(
    tiny: Data, most: int | None, noted: bool
) -> None:
    few = replace(tiny, train=Split(tiny.train.images[:8], tiny.train.labels[:8]))
    cut, hooks = pruned(tiny, untrained(), 0.8), Counting()
    recipe = ScratchBRecipe(epochs=2, batch_size=8, lr=1e-30, max_epochs=most)
    counted = masks.cost(cut.network(), cut.mask, (3, 8, 8))
    equal_work = round(2 * counted["macs"] / counted["macs_nonzero"])
    made = STAGES["scratch_b"].run(Context("resnet20", 3, few, 0, "fp32", cut, hooks=hooks), recipe)
    assert hooks.lengths == [min(equal_work, 4 if most is None else most)]
    assert equal_work > 4
    assert bool(hooks.notes) is noted
    other = run("scratch_e", few, TrainRecipe(epochs=0, batch_size=8, lr=1e-30), cut)
    assert torch.equal(made.weights["conv1.weight"], other.weights["conv1.weight"])


def test_distilling_with_no_weight_is_finetuning_and_reads_no_teacher_and_with_some_keeps_the_mask(tiny: Data) -> None:
    read: list[str] = []

    def teacher() -> Checkpoint:
        read.append("teacher")
        return untrained()

    cut = pruned(tiny, untrained(), 0.8)
    context = Context("resnet20", 3, tiny, 0, "fp32", cut, Inputs({"dense": teacher, "level 1": lambda: cut}))
    values = {key: value for key, value in ONE.values().items() if key in ONE.__dataclass_fields__}
    plain = STAGES["distill"].run(context, DistillRecipe(**values, temperature=4.0))
    assert equal(plain.weights, run("finetune", tiny, ONE, cut).weights)
    assert read == []
    before = copy.deepcopy(untrained().weights)
    taught = STAGES["distill"].run(context, DistillRecipe(**values, temperature=4.0, weight=0.9))
    assert read == ["teacher"]
    assert equal(taught.mask, cut.mask)
    masks.check(taught.mask, taught.weights)
    assert not torch.equal(taught.weights["conv1.weight"], plain.weights["conv1.weight"])
    assert equal(untrained().weights, before)  # teachers learn nothing, nor do their BatchNorms
    with pytest.raises(ValueError, match="needs at least one teacher"):
        run("distill", tiny, DistillRecipe(**values, weight=0.9), cut)


def test_pruning_at_initialisation_starts_where_training_would(tiny: Data) -> None:
    start = run("init", tiny, InitRecipe(), seed=3)
    assert equal(start.weights, run("train", tiny, replace(ONE, epochs=0), seed=3).weights)
    assert not equal(start.weights, run("init", tiny, InitRecipe(), seed=4).weights)
    cut = pruned(tiny, start, 0.9, seed=3, criterion="snip")
    trained = run("at_init", tiny, ONE, cut, seed=3)
    assert gone(trained) == gone(cut) == (round(0.9 * PRUNABLE["resnet20"]), PRUNABLE["resnet20"])
    assert not equal(trained.weights, cut.weights)
