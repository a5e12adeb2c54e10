import copy
import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pruning.recipes import FinetuneRecipe, TrainRecipe
from pruning.schedules import learning_rate
from torch import Tensor, nn

from pruning import archs, masks, rng
from pruning.data import Data, Split, train_batches
from pruning.errors import UserError
from pruning.training import Fitting, Interrupted, Journal, State, evaluate, fit, measure

SGD = TrainRecipe(epochs=2, batch_size=10, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, schedule="linear")
RECIPES = {
    "sgd": replace(SGD, momentum=0.0, nesterov=False, schedule="constant"),
    "momentum": replace(SGD, nesterov=False, schedule="steps"),
    "nesterov": replace(SGD, warmup=0.3, schedule="cosine", label_smoothing=0.1),
    "adam": replace(SGD, optimizer="adam", momentum=0.0, nesterov=False, lr=0.003),
    "adamw": replace(SGD, optimizer="adamw", momentum=0.0, nesterov=False, lr=0.003, betas=(0.8, 0.99)),
}


class Memory(Journal):
    """Keeps what it is given, through a file in memory as on the disk; stops after `stop` batches."""

    def __init__(self, stop: int | None = None, saved: bytes | None = None) -> None:
        self.left, self.saved = stop, saved
        self.rows: list[dict[str, float]] = []

    def state(self) -> State | None:
        return torch.load(io.BytesIO(self.saved), weights_only=True) if self.saved else None

    def save(self, state: State) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        self.saved = file.getvalue()

    def row(self, metrics: dict[str, float]) -> None:
        self.rows.append(metrics)

    def batch(self, images: int) -> None:
        if self.left:
            self.left -= 1

    def stopping(self) -> bool:
        return self.left == 0


class Small(nn.Module):
    """A convolution, BatchNorm and a linear layer: every kind of state, and fast."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def network(seed: int = 0) -> nn.Module:
    model = Small()
    archs.initialise(model, rng.generator(seed, "init"))
    return model


def half(model: nn.Module) -> masks.Mask:
    weights = dict(model.named_parameters())
    return masks.keep_top({name: weights[name].detach().abs() for name in masks.prunable(model)}, 0.5)


def trained(data: Data, recipe: TrainRecipe, journal: Journal, precision: str = "fp32", seed: int = 0) -> nn.Module:
    model = network()
    fit(model, half(model), data, recipe, seed=seed, precision=precision, journal=journal)
    return model


def equal(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_times(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_fit_continues_to_the_same_bits_wherever_it_was_interrupted(
    tiny: Data, recipe: TrainRecipe, precision: str
) -> None:
    whole = Memory()
    expected = trained(tiny, recipe, whole, precision)
    for stop in (1, 4, 5, 6, 9, 10):  # batches: in the first epoch, at its end (5), after it, at the very end
        first = Memory(stop)
        with pytest.raises(Interrupted):
            trained(tiny, recipe, first, precision)
        second = Memory(saved=first.saved)
        assert equal(trained(tiny, recipe, second, precision), expected), f"stopped after {stop} batches"
        assert without_times(first.rows + second.rows) == without_times(whole.rows)


def test_a_fit_that_is_interrupted_after_every_batch_comes_to_the_same_bits(tiny: Data) -> None:
    journal = Memory()
    expected, times = trained(tiny, SGD, journal), 0
    journal = Memory(stop=1)
    while True:
        try:
            model = trained(tiny, SGD, journal)
        except Interrupted:
            journal, times = Memory(stop=1, saved=journal.saved), times + 1
        else:
            break
    assert times == 10
    assert equal(model, expected)


def reference(data: Data, recipe: TrainRecipe, mask: masks.Mask, model: nn.Module) -> None:
    """The loop that anybody would write: torch's own optimizer, masks put on again by hand after each step."""
    model = model.to(memory_format=torch.channels_last)
    common: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        common |= {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
        optimizer = torch.optim.SGD(model.parameters(), **common)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        optimizer = kind(model.parameters(), betas=recipe.betas, **common)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, keep in mask.items():
            parameters[name][~keep] = 0.0
    step, steps = 0, recipe.epochs * math.ceil(len(data.train) / recipe.batch_size)
    for epoch in range(recipe.epochs):
        model.train()
        for images, labels in train_batches(data, batch_size=recipe.batch_size, seed=0, epoch=epoch):
            shape = {"schedule": recipe.schedule, "warmup": recipe.warmup}
            optimizer.param_groups[0]["lr"] = learning_rate(step / steps, recipe.lr, **shape)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels, label_smoothing=recipe.label_smoothing).backward()
            optimizer.step()
            with torch.no_grad():
                for name, keep in mask.items():
                    parameters[name][~keep] = 0.0
            step += 1


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_loop_equals_the_obvious_one(tiny: Data, recipe: TrainRecipe) -> None:
    expected = network()
    reference(tiny, recipe, half(expected), expected)
    assert equal(trained(tiny, recipe, Memory()), expected)


class Watching(Memory):
    """Looks at the network after every batch."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self.look = look

    def batch(self, images: int) -> None:
        self.look()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_pruned_weights_are_plus_zero_after_every_step(tiny: Data, recipe: TrainRecipe) -> None:
    model, looks = network(), 0
    mask = half(model)

    def look() -> None:
        nonlocal looks
        looks += 1
        for name, keep in mask.items():
            pruned = dict(model.named_parameters())[name][~keep]
            assert not pruned.any() and not pruned.signbit().any()

    fit(model, mask, tiny, recipe, seed=0, precision="fp32", journal=Watching(look))
    assert looks == 10
    assert all(bool(dict(model.named_parameters())[name][keep].all()) for name, keep in mask.items())


def test_the_mask_may_leave_nothing_of_a_layer(tiny: Data) -> None:
    model = network()
    mask = {
        name: torch.zeros_like(dict(model.named_parameters())[name], dtype=torch.bool) for name in ("conv1.weight",)
    }
    fit(model, mask, tiny, SGD, seed=0, precision="fp32", journal=Memory())
    assert not model.get_parameter("conv1.weight").any()
    assert model.get_parameter("conv2.weight").all()


@pytest.mark.parametrize("schedule", ["constant", "steps", "linear", "cosine"])
def test_the_learning_rates_are_those_of_the_schedule_also_after_an_interruption(tiny: Data, schedule: str) -> None:
    recipe = replace(SGD, epochs=3, schedule=schedule, warmup=0.2, start=0.1, end=0.01, milestones=(0.4, 0.8))
    seen: list[float] = []

    class Spy(Fitting):
        def step(self, images: Tensor, labels: Tensor) -> None:
            super().step(images, labels)
            seen.append(self.optimizer.param_groups[0]["lr"])

    def run(journal: Journal) -> None:
        model = network()
        fitting = Spy(model, {}, tiny, recipe, 0, "fp32", journal)
        while fitting.epoch < recipe.epochs:
            fitting.run_epoch()

    first = Memory(stop=7)
    with pytest.raises(Interrupted):
        run(first)
    run(Memory(saved=first.saved))
    shape: dict[str, Any] = {"schedule": schedule, "warmup": 0.2, "start": 0.1, "end": 0.01, "milestones": (0.4, 0.8)}
    assert seen == [learning_rate(i / 15, 0.05, **shape) for i in range(15)]
    assert len(set(seen)) > 3 or schedule == "constant"


def test_rows_tell_each_epoch(tiny: Data) -> None:
    journal = Memory()
    model = trained(tiny, SGD, journal)
    assert [row["epoch"] for row in journal.rows] == [1, 2]
    assert set(journal.rows[0]) == {
        *("epoch", "lr", "train_loss", "train_top1", "images_per_second", "seconds"),
        *("test_top1", "test_top5", "test_loss"),
    }
    last = {k: v for k, v in journal.rows[-1].items() if k.startswith("test_")}
    assert last == measure(model, tiny, "fp32")


def test_a_held_out_part_is_measured_too(tiny: Data) -> None:
    held = replace(tiny, val=Split(tiny.test.images[:7], tiny.test.labels[:7]))
    assert set(measure(network(), held, "fp32")) == {
        f"{p}_{f}" for p in ("test", "val") for f in ("top1", "top5", "loss")
    }


def test_no_epochs_change_nothing_but_the_pruned_weights(tiny: Data) -> None:
    model = trained(tiny, replace(SGD, epochs=0), Memory())
    start = network()
    assert equal(model, start) is False
    assert torch.equal(model.get_parameter("fc.weight"), start.get_parameter("fc.weight"))
    masks.check(half(start), dict(model.named_parameters()))


class Told(nn.Module):
    """Reads the answer off the first pixel: logits `scale` at the class that it says, 0 elsewhere."""

    def __init__(self, classes: int, scale: float = 20.0) -> None:
        super().__init__()
        self.classes, self.scale = classes, scale

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot((x[:, 0, 0, 0] * 255).round().long(), self.classes).float() * self.scale


def told(n: int, classes: int, wrong: int = 0) -> Data:
    """Images whose first pixel says the class; of the last `wrong` it says the next one."""
    labels = torch.arange(n) % classes
    images = torch.zeros(n, 4, 4, 3, dtype=torch.uint8)
    says = torch.where(torch.arange(n) >= n - wrong, (labels + 1) % classes, labels)
    images[:, 0, 0] = says[:, None].to(torch.uint8)
    split = Split(images, labels)
    return Data(split, None, split, tuple(map(str, range(classes))), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("n", [1, 99, 100, 101, 257])
def test_evaluation_of_a_perfect_classifier_is_100_percent(n: int) -> None:
    data = told(n, classes=10)
    assert evaluate(Told(10), data, data.test, "fp32") | {"loss": 0} == {"top1": 100.0, "top5": 100.0, "loss": 0}


def test_evaluation_counts_images_not_batches() -> None:
    data = told(103, classes=10, wrong=3)  # the last batch of a hundred holds the three that are wrong
    figures = evaluate(Told(10), data, data.test, "fp32")
    right, wrong = (math.log(math.exp(20) + 9) - s for s in (20, 0))
    assert figures["top1"] == 100 * 100 / 103
    assert figures["loss"] == pytest.approx((100 * right + 3 * wrong) / 103, rel=1e-6)


def test_top5_is_among_the_five_largest_and_top1_among_fewer_than_five_classes() -> None:
    data = told(60, classes=3, wrong=30)
    assert evaluate(Told(3), data, data.test, "fp32") == {
        "top1": 50.0,
        "top5": 100.0,
        "loss": pytest.approx((math.log(math.exp(20) + 2) - 10), rel=1e-6),
    }
    data = told(100, classes=20, wrong=50)
    # of the 19 equal logits four are among the five largest: the next class is one of them or not
    assert 50.0 <= evaluate(Told(20), data, data.test, "fp32")["top5"] < 100.0


def test_evaluation_leaves_the_network_as_it_was(tiny: Data) -> None:
    model = network()
    before = copy.deepcopy(model)
    evaluate(model, tiny, tiny.test, "bf16")
    assert equal(model, before)


@pytest.mark.parametrize("recipe", [TrainRecipe, FinetuneRecipe])
def test_divergence_is_said(tiny: Data, recipe: type[TrainRecipe]) -> None:
    with pytest.raises(UserError, match=rf"^the loss is \w+ in epoch 1: .* lower {recipe.NODE}.lr$"):
        trained(tiny, recipe(epochs=2, batch_size=10, lr=1e30), Memory())


def test_the_seed_decides(tiny: Data) -> None:
    one, again, other = (trained(tiny, SGD, Memory(), seed=seed) for seed in (1, 1, 2))
    assert equal(one, again)
    assert not equal(one, other)


def test_what_torch_draws_elsewhere_changes_nothing(tiny: Data) -> None:
    torch.manual_seed(1)
    one = trained(tiny, SGD, Memory())
    torch.manual_seed(2)
    assert equal(trained(tiny, SGD, Memory()), one)


def test_purposes_do_not_share_a_stream() -> None:
    purposes = ("init", "reinit", "order", "augment", "criterion")
    seeds = {
        rng.stream_seed(seed, purpose, *place) for seed in (0, 1, 10) for purpose in purposes for place in ((), (0,))
    }
    assert len(seeds) == 3 * 5 * 2
    draws = [torch.rand(4, generator=rng.generator(0, purpose)) for purpose in purposes]
    assert len({tuple(draw.tolist()) for draw in draws}) == 5


def test_the_order_does_not_depend_on_the_augmentation(tiny: Data) -> None:
    def labels(data: Data) -> list[list[int]]:
        return [y.tolist() for _, y in train_batches(data, batch_size=10, seed=0, epoch=0)]

    assert labels(tiny) == labels(replace(tiny, pad=0, flip=False))
