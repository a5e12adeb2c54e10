import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning.training import SCHEDULES, TrainRecipe, learning_rate

ONE_CYCLE: dict[str, Any] = {"schedule": "cosine", "warmup": 0.1, "start": 0.1, "end": 0.001}
HALVES: dict[str, Any] = {"schedule": "steps", "milestones": (0.5, 0.75), "decay": 0.1}


def optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def rates(opt: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """Return the learning rate of each of `steps` optimizer steps."""
    found = []
    for _ in range(steps):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("epochs", "steps"), [(300, 7), (160, 11), (8, 3)])
def test_steps_are_those_of_multi_step_lr(epochs: int, steps: int) -> None:
    opt = optimizer()
    total = epochs * steps
    expected = rates(opt, torch.optim.lr_scheduler.MultiStepLR(opt, [total // 2, 3 * total // 4]), total)
    assert [learning_rate(i / total, 0.1, **HALVES) for i in range(total)] == pytest.approx(expected, rel=1e-12)


def test_a_milestone_takes_effect_at_its_first_step() -> None:
    total = 300 * 391
    for milestone in (0.1, 0.3, 0.6, 0.7, 1 / 3, 0.9):
        shape: dict[str, Any] = {"schedule": "steps", "milestones": [milestone], "decay": 0.2}
        first = round(milestone * total)
        assert [learning_rate(step / total, 1.0, **shape) for step in (first - 1, first)] == [1.0, 0.2]


def test_one_cycle_is_that_of_torch() -> None:
    """Torch peaks a step early and ends on the last step (ours after it), so compare at its own progress."""
    total, warmup = 400, 0.1
    opt = optimizer()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        opt, 0.1, total, pct_start=warmup, div_factor=10, final_div_factor=100, cycle_momentum=False
    )
    ends = warmup * total - 1
    expected = [*rates(opt, scheduler, total - 1), opt.param_groups[0]["lr"]]
    for step, rate in enumerate(expected):
        after = (step - ends) / (total - 1 - ends)
        progress = warmup * step / ends if step < ends else warmup + (1 - warmup) * after
        assert learning_rate(progress, 0.1, **ONE_CYCLE) == pytest.approx(rate, rel=1e-9)
        # at the same step both are within one step of each other
        assert learning_rate(step / total, 0.1, **ONE_CYCLE) == pytest.approx(rate, abs=0.1 * math.pi / 2 / ends)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ({}, {0: 1, 0.3: 1, 1: 1}),
        ({"warmup": 0.5, "start": 0.5}, {0: 0.5, 0.25: 0.75, 0.5: 1, 1: 1}),
        ({"schedule": "linear", "end": 0.0, "warmup": 0.2}, {0: 0, 0.05: 0.25, 0.2: 1, 0.4: 0.75, 0.8: 0.25, 1: 0}),
        ({"schedule": "linear", "end": 0.5, "warmup": 0.5, "start": 0.1}, {0: 0.1, 0.25: 0.55, 0.5: 1, 0.75: 0.75}),
        (ONE_CYCLE, {0: 0.1, 0.05: 0.55, 0.1: 1, 0.55: (1 + 0.001) / 2, 1: 0.001}),
        # milestones count from the start of the warm-up
        (HALVES | {"warmup": 0.25}, {0: 0, 0.125: 0.5, 0.25: 1, 0.49: 1, 0.5: 0.1, 0.75: 0.01}),
    ],
)
def test_rates_by_hand(shape: dict[str, Any], wanted: dict[float, float]) -> None:
    for peak in (1.0, 0.4):
        found = {progress: learning_rate(progress, peak, **shape) / peak for progress in wanted}
        assert found == pytest.approx(wanted, abs=1e-15)


fractions = st.floats(0, 1)


@given(st.sampled_from(list(SCHEDULES)), st.floats(0, 0.99), fractions, fractions, st.floats(1e-6, 10))
def test_up_to_the_peak_then_down_to_the_end(
    schedule: str, warmup: float, start: float, end: float, peak: float
) -> None:
    recipe = TrainRecipe(epochs=1, batch_size=1, lr=1, schedule=schedule, end=end)
    shape: dict[str, Any] = {"schedule": schedule, "warmup": warmup, "start": start} | recipe.arguments("schedule")
    grid = [(i / 50, learning_rate(i / 50, peak, **shape) / peak) for i in range(51)]
    assert all(a <= b + 1e-12 for (_, a), (progress, b) in pairwise(grid) if progress < warmup)
    assert all(a >= b - 1e-12 for (progress, a), (_, b) in pairwise(grid) if progress >= warmup)
    lowest = {"constant": 1.0, "steps": 0.01}.get(schedule, end)
    lowest = min(lowest, start) if warmup else lowest
    assert all(lowest - 1e-9 <= rate <= 1 + 1e-9 for _, rate in grid)
    if schedule != "steps":
        assert learning_rate(warmup, peak, **shape) == pytest.approx(peak)
