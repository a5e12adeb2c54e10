import copy
import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning import archs, masks, rng
from pruning.data import Data, Split, train_batches
from pruning.errors import Interrupted, UserError
from pruning.training import ResumeState, StateError, TrainingHooks, TrainRecipe, evaluate, fit, measure
from tests import reference
from tests.helpers import CLOCK, equal

SGD = TrainRecipe(epochs=2, batch_size=10, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, schedule="linear")
ADAM = replace(SGD, optimizer="adam", lr=0.003, end=0.2)
RECIPES = {
    "sgd": replace(SGD, momentum=0.0, nesterov=False, schedule="constant", warmup=0.4, start=0.5),
    "momentum": replace(SGD, nesterov=False, schedule="steps", milestones=(0.3, 0.8), decay=0.3),
    "nesterov": replace(SGD, warmup=0.3, start=0.1, end=0.01, schedule="cosine", label_smoothing=0.1),
    "adam": ADAM,
    "adamw": replace(ADAM, optimizer="adamw", betas=(0.8, 0.99)),
}
ONE_CYCLE: dict[str, Any] = {"schedule": "one_cycle", "warmup": 0.3, "start": 0.1, "end": 1e-4}
CYCLED = {  # whose rates are torch's but for the last bits
    "one cycle": replace(SGD, **ONE_CYCLE, momentum_cycle=(0.95, 0.85)),
    "one cycle, momentum stays": replace(SGD, **ONE_CYCLE),
    "one cycle, adam": replace(ADAM, **(ONE_CYCLE | {"momentum_cycle": (0.95, 0.85)})),
}


class Memory(TrainingHooks):
    """Keeps what it is given, through a file in memory as on the disk; stops after `stop` batches."""

    def __init__(self, stop: int | None = None, saved: bytes | None = None) -> None:
        self.left, self.saved = stop, saved
        self.rows: list[dict[str, float]] = []

    def state(self) -> ResumeState | None:
        return torch.load(io.BytesIO(self.saved), weights_only=True) if self.saved else None

    def save(self, state: ResumeState) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        self.saved = file.getvalue()

    def row(self, metrics: dict[str, float]) -> None:
        self.rows.append({name: value for name, value in metrics.items() if name not in CLOCK})

    def batch(self, images: int) -> None:
        if self.left:
            self.left -= 1

    def stopping(self) -> bool:
        return self.left == 0


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def network() -> nn.Module:
    model = Small()
    archs.initialise(model, rng.generator(0, "init"))
    return model


def trained(data: Data, recipe: TrainRecipe, hooks: TrainingHooks, **options: Any) -> dict[str, Tensor]:
    """Return the weights of a network after `fit` with half of them pruned."""
    model = network()
    fit(model, data, recipe, mask=masks.prune(model, 0.5), hooks=hooks, **options)
    return model.state_dict()


@pytest.mark.parametrize("recipe", CYCLED.values(), ids=CYCLED)
def test_one_cycle_is_torchs_scheduler_to_rounding(tiny: Data, recipe: TrainRecipe) -> None:
    model, expected = network(), network()
    mask = masks.prune(model, 0.5)
    fit(model, tiny, recipe, mask=mask)
    reference.fit(expected, tiny, recipe, mask)
    for name, value in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("case", [*RECIPES, "bf16", "one cycle"])
def test_a_fit_that_is_interrupted_again_and_again_comes_to_the_same_bits(tiny: Data, case: str) -> None:
    recipe, precision = (RECIPES["nesterov"], "bf16") if case == "bf16" else ((RECIPES | CYCLED)[case], "fp32")
    whole = Memory()
    expected = trained(tiny, recipe, whole, precision=precision)
    for stop in (1, 3):  # batches; an epoch has 5
        hooks, rows = Memory(stop), []
        for _ in range(10 // stop):
            with pytest.raises(Interrupted):
                trained(tiny, recipe, hooks, precision=precision)
            rows += hooks.rows
            hooks = Memory(stop, saved=hooks.saved)
        assert equal(trained(tiny, recipe, hooks, precision=precision), expected), f"stopped every {stop} batches"
        assert rows + hooks.rows == whole.rows


UPDATES: dict[str, masks.Updates] = {
    "rigl": masks.DropAndGrow(growth=masks.by_gradient, seed=0, interval=2, until=1.0),
    "set": masks.DropAndGrow(growth=masks.at_random, seed=0, interval=3, until=1.0),
    "gradual": masks.Gradual(
        prune=lambda model, sparsity, mask: masks.prune(model, sparsity, previous=mask),
        sparsity=0.8,
        initial=0.5,
        interval=2,
    ),
}


@pytest.mark.parametrize("updates", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize("recipe", [RECIPES["nesterov"], RECIPES["adam"]], ids=["sgd", "adam"])
def test_a_mask_that_changes_is_kept_and_continued_to_the_same_bits(
    tiny: Data, updates: masks.Updates, recipe: TrainRecipe
) -> None:
    def run(hooks: TrainingHooks) -> tuple[dict[str, Tensor], masks.Mask]:
        model = network()
        mask = fit(model, tiny, recipe, mask=masks.prune(model, 0.5), hooks=hooks, updates=updates)
        masks.check(mask, model.state_dict())
        return model.state_dict(), mask

    weights, mask = run(TrainingHooks())
    assert not equal(mask, masks.prune(network(), 0.5))
    for stop in (1, 3):
        hooks = Memory(stop)
        for _ in range(10 // stop):
            with pytest.raises(Interrupted):
                run(hooks)
            hooks = Memory(stop, saved=hooks.saved)
        again, its_mask = run(hooks)
        assert equal(again, weights)
        assert equal(its_mask, mask)


def test_who_returns_starts_from_zero_and_without_what_the_optimizer_had_gathered(tiny: Data) -> None:
    seen = []

    def swap(step: int, _steps: int, model: nn.Module, mask: masks.Mask) -> masks.Mask | None:
        weights = model.get_parameter("conv2.weight")
        if step == 4:
            seen.append(weights.detach().clone())
            return {name: ~keep for name, keep in mask.items()}
        if step == 5:
            seen.append(weights.detach().clone())
        return None

    model = network()
    start = masks.prune(model, 0.5)
    recipe = replace(SGD, epochs=1, lr=1e-3, schedule="constant", batch_size=8)
    mask = fit(model, tiny, recipe, mask=start, updates=swap)
    before, after = seen
    kept = start["conv2.weight"]
    assert before[kept].all()
    assert not after.any()  # what was kept went, what came is zero still: no update in that step
    moved = model.state_dict()["conv2.weight"]
    assert not moved[kept].any()
    assert 0 < moved[~kept].abs().max() < 0.1  # one step from zero
    assert equal(mask, {name: ~keep for name, keep in start.items()})


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_loop_equals_the_obvious_one_and_pruned_weights_are_plus_zero_after_every_step(
    tiny: Data, recipe: TrainRecipe
) -> None:
    model, expected = network(), network()
    mask = masks.prune(model, 0.5)
    looks = []

    class Watching(TrainingHooks):
        def batch(self, images: int) -> None:
            looks.append(images)
            for name, keep in mask.items():
                weights = model.get_parameter(name)
                assert weights[keep].all()
                assert not weights[~keep].any()
                assert not weights[~keep].signbit().any()

    fit(model, tiny, recipe, mask=mask, hooks=Watching())
    assert len(looks) == 10
    reference.fit(expected, tiny, recipe, mask)
    assert equal(model.state_dict(), expected.state_dict())


def test_the_mask_may_be_empty_or_leave_nothing_of_a_layer_and_the_usual_seed_is_0(tiny: Data) -> None:
    for mask in (None, {"conv1.weight": torch.zeros(8, 3, 3, 3, dtype=torch.bool)}):
        model, expected = network(), network()
        fit(model, tiny, SGD, mask=mask)
        reference.fit(expected, tiny, SGD, mask or {})
        assert equal(model.state_dict(), expected.state_dict())
        assert bool(model.get_parameter("conv1.weight").any()) is (mask is None)


def test_a_training_may_begin_at_an_epoch_as_if_those_before_had_been_made(tiny: Data) -> None:
    """Without an optimizer's memory, what one training makes in two goes is what it makes in one."""
    plain = replace(RECIPES["momentum"], momentum=0.0, epochs=3)
    whole, mask = network(), masks.prune(network(), 0.5)

    class Keeping(Memory):
        def after(self, epoch: int, model: nn.Module) -> None:
            kept[epoch] = {name: value.clone() for name, value in model.state_dict().items()}

    kept: dict[int, dict[str, Tensor]] = {}
    hooks, later = Keeping(), Memory()
    fit(whole, tiny, plain, mask=mask, hooks=hooks)
    part = network()
    part.load_state_dict(kept[1])
    fit(part, tiny, plain, mask=mask, hooks=later, first_epoch=1)
    assert equal(part.state_dict(), whole.state_dict())
    assert equal(kept[3], whole.state_dict())
    assert [row | {"epoch": row["epoch"] + 1} for row in later.rows] == hooks.rows[1:]


def test_each_epoch_gives_a_row(tiny: Data) -> None:
    hooks, model = Memory(), network()
    fit(model, tiny, replace(SGD, lr=1e-30), hooks=hooks)  # the weights stay as they are
    assert [row["epoch"] for row in hooks.rows] == [1, 2]
    assert [row["lr"] for row in hooks.rows] == pytest.approx([6e-31, 1e-31], rel=1e-9)  # of its last step
    last = measure(model, tiny, "fp32")
    assert hooks.rows[-1] == last | {key: hooks.rows[-1][key] for key in ("epoch", "lr", "train_loss", "train_top1")}
    model.train().requires_grad_(False)
    for epoch, row in enumerate(hooks.rows):
        batches = [(model(x), y) for x, y in train_batches(tiny, batch_size=10, seed=0, epoch=epoch)]
        losses = sum(float(F.cross_entropy(logits, y, reduction="sum")) for logits, y in batches)
        assert row["train_loss"] == pytest.approx(losses / 45, rel=1e-6)
        assert row["train_top1"] == 100 * sum(int((logits.argmax(1) == y).sum()) for logits, y in batches) / 45


def test_no_epochs_change_nothing_but_the_pruned_weights(tiny: Data) -> None:
    start = network()
    wanted = masks.masked(start.state_dict(), masks.prune(start, 0.5))
    assert equal(trained(tiny, replace(SGD, epochs=0), Memory()), wanted)


def test_divergence_is_reported(tiny: Data) -> None:
    with pytest.raises(UserError, match=r"^lr=1e\+30 is too high: .*, the loss is \w+ in epoch 1$") as caught:
        fit(network(), tiny, TrainRecipe(epochs=2, batch_size=10, lr=1e30))
    assert caught.value.parameter == "lr"


@pytest.mark.parametrize("lr", [1e12, 1e30, 1e38])
def test_divergence_in_the_very_last_update_is_reported(tiny: Data, lr: float) -> None:
    """The loss of a step is that before its update, so only a measurement can see what the last one has done."""
    hooks = Memory()
    recipe = TrainRecipe(epochs=1, batch_size=45, lr=lr)
    with pytest.raises(UserError, match=r"^lr=1e\+\d+ is too high: .*, the test_loss is \w+ in epoch 1$"):
        fit(network(), tiny, recipe, hooks=hooks)
    assert (hooks.rows, hooks.saved) == ([], None)


def test_another_purpose_draws_other_batches(tiny: Data) -> None:
    """Else finetuning would repeat the order, the crops and the flips of training."""
    fits = [trained(tiny, SGD, Memory(), purpose=purpose) for purpose in ("train", "train", "finetune at 0.8")]
    assert equal(fits[0], fits[1])
    assert not equal(fits[0], fits[2])


@pytest.mark.parametrize("break_it", ["model", "optimizer", "sums", "epoch", "batch", "gone"])
def test_a_state_of_another_training_is_refused(tiny: Data, break_it: str) -> None:
    hooks = Memory(stop=3)
    with pytest.raises(Interrupted):
        trained(tiny, SGD, hooks)
    assert hooks.saved
    state = torch.load(io.BytesIO(hooks.saved), weights_only=True)
    if break_it == "gone":
        state.pop("model")
    else:
        wrong: dict[str, Any] = {"model": {"x": torch.ones(1)}, "optimizer": [], "sums": torch.ones(3)}
        state[break_it] = wrong.get(break_it, 10**6)
    hooks.save(state)
    with pytest.raises(StateError):
        trained(tiny, SGD, Memory(saved=hooks.saved))


def test_the_seed_decides_and_nothing_that_torch_draws_elsewhere(tiny: Data) -> None:
    torch.manual_seed(1)
    one, other = (trained(tiny, SGD, Memory(), seed=seed) for seed in (1, 2))
    torch.manual_seed(2)
    assert equal(one, trained(tiny, SGD, Memory(), seed=1))
    assert not equal(one, other)


class Reader(nn.Module):
    """Reads the answer off the first pixel: logits 20 at the class that stands there, 0 elsewhere."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot((x[:, 0, 0, 0] * 255).round().long(), self.classes).float() * 20


def readable(n: int, classes: int, wrong: int = 0) -> Data:
    """Images whose first pixel is the class; in the last `wrong` it is the next one."""
    labels = torch.arange(n) % classes
    images = torch.zeros(n, 4, 4, 3, dtype=torch.uint8)
    answer = torch.where(torch.arange(n) >= n - wrong, (labels + 1) % classes, labels)
    images[:, 0, 0] = answer[:, None].to(torch.uint8)
    split = Split(images, labels)
    return Data(split, None, split, tuple(map(str, range(classes))), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def loss(classes: int, right: int, wrong: int) -> float:
    of_right, of_wrong = (math.log(math.exp(20) + classes - 1) - logit for logit in (20, 0))
    return (right * of_right + wrong * of_wrong) / (right + wrong)


def test_evaluation_counts_images_not_batches() -> None:
    """Trap: the mean of the means of batches (of 100) gives a perfect classifier less than 100 percent."""
    for n, wrong in ((1, 0), (99, 0), (100, 0), (101, 0), (257, 0), (103, 3)):
        figures = evaluate(Reader(10), readable(n, 10, wrong))
        assert figures["top1"] == 100 * (n - wrong) / n
        assert wrong or figures["top5"] == 100.0
        assert figures["loss"] == pytest.approx(loss(10, n - wrong, wrong), rel=1e-6, abs=1e-6)


def test_top5_is_among_the_five_largest_and_top1_among_fewer_than_five_classes() -> None:
    few = evaluate(Reader(3), readable(60, 3, wrong=30))
    assert few == {"top1": 50.0, "top5": 100.0, "loss": pytest.approx(loss(3, 30, 30), rel=1e-6)}
    # of the 19 equal logits four are among the five largest: the next class is one of them or not
    assert 50.0 <= evaluate(Reader(20), readable(100, 20, wrong=50))["top5"] < 100.0


def test_evaluation_changes_nothing_and_measures_a_held_out_part_too(tiny: Data) -> None:
    held = replace(tiny, val=Split(tiny.test.images[:7], tiny.test.labels[:7]))
    model = network()
    before = copy.deepcopy(model.state_dict())
    figures = measure(model, held, "bf16")
    assert equal(model.state_dict(), before)
    for part, split in (("test", None), ("val", held.val)):
        found = evaluate(model, held, split, precision="bf16")
        assert found == {name: figures.pop(f"{part}_{name}") for name in ("top1", "top5", "loss")}
    assert not figures
