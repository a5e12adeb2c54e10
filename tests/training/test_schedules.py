import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pruning.schedules import SHAPES, learning_rate


def optimizer(lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(opt: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """Return the learning rate of each of `steps` optimizer steps."""
    found = []
    for _ in range(steps):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("epochs, steps", [(300, 7), (160, 11), (8, 3)])
def test_steps_are_those_of_multi_step_lr(epochs, steps):
    opt = optimizer()
    total = epochs * steps
    expected = rates(opt, torch.optim.lr_scheduler.MultiStepLR(opt, [total // 2, 3 * total // 4]), total)
    found = [learning_rate(i / total, 0.1, schedule="steps") for i in range(total)]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("milestone", [0.1, 0.3, 0.6, 0.7, 1 / 3, 0.9])
def test_a_milestone_takes_effect_at_its_first_step(milestone):
    total = 300 * 391
    first = round(milestone * total)
    for step, expected in [(first - 1, 1.0), (first, 0.2)]:
        assert learning_rate(step / total, 1.0, schedule="steps", milestones=[milestone], decay=0.2) == expected


def test_one_cycle_is_that_of_torch():
    """Torch peaks a step early and ends on the last step (ours after it), so compare at its own progress."""
    total, warmup = 400, 0.1
    opt = optimizer()
    options = dict(div_factor=10, pct_start=warmup, final_div_factor=100, cycle_momentum=False)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=total, **options)
    ends = warmup * total - 1
    one_cycle = dict(schedule="cosine", warmup=warmup, start=0.1, end=0.001)
    expected = [*rates(opt, scheduler, total - 1), opt.param_groups[0]["lr"]]
    for step, rate in enumerate(expected):
        after = (step - ends) / (total - 1 - ends)
        progress = warmup * step / ends if step < ends else warmup + (1 - warmup) * after
        assert learning_rate(progress, 0.1, **one_cycle) == pytest.approx(rate, rel=1e-9)
        # at the same step both are within one step of each other
        assert learning_rate(step / total, 0.1, **one_cycle) == pytest.approx(rate, abs=0.1 * math.pi / 2 / ends)


def test_one_cycle_by_hand():
    one_cycle = dict(schedule="cosine", warmup=0.1, start=0.1, end=0.001)
    wanted = {0: 0.01, 0.05: 0.055, 0.1: 0.1, 0.55: (0.1 + 0.0001) / 2, 1: 0.0001}
    assert {p: learning_rate(p, 0.1, **one_cycle) for p in wanted} == pytest.approx(wanted)


def test_linear_with_warm_up_by_hand():
    wanted = {0: 0.0, 0.05: 0.1, 0.1: 0.2, 0.2: 0.4, 0.4: 0.3, 0.6: 0.2, 0.8: 0.1, 1: 0.0}
    assert {p: learning_rate(p, 0.4, schedule="linear", warmup=0.2) for p in wanted} == pytest.approx(wanted, abs=1e-15)


def test_linear_between_start_and_end_by_hand():
    wanted = {0: 0.1, 0.25: 0.55, 0.5: 1.0, 0.75: 0.75, 1: 0.5}
    options = dict(schedule="linear", warmup=0.5, start=0.1, end=0.5)
    assert {p: learning_rate(p, 1.0, **options) for p in wanted} == pytest.approx(wanted)


def test_constant():
    assert {learning_rate(i / 10, 0.3) for i in range(11)} == {0.3}
    assert [learning_rate(p, 0.4, warmup=0.5, start=0.5) for p in (0, 0.25, 0.5, 1)] == pytest.approx(
        [0.2, 0.3, 0.4, 0.4]
    )


def test_steps_count_milestones_from_the_start_of_warm_up():
    found = [learning_rate(p, 1.0, schedule="steps", warmup=0.25) for p in (0, 0.125, 0.25, 0.49, 0.5, 0.75)]
    assert found == pytest.approx([0, 0.5, 1, 1, 0.1, 0.01])


fractions = st.floats(0, 1)


@given(st.sampled_from(SHAPES), fractions, st.floats(0, 0.99), fractions, fractions, st.floats(1e-6, 10))
def test_never_above_the_peak_nor_below_the_ends(schedule, progress, warmup, start, end, peak):
    options = dict(schedule=schedule, warmup=warmup, start=start, end=end)
    rate = learning_rate(progress, peak, **options)
    lowest = {"constant": 1.0, "steps": 0.01}.get(schedule, end)
    assert min(start if warmup else 1, lowest) * peak * (1 - 1e-9) <= rate <= peak * (1 + 1e-9)
    assert learning_rate(warmup, peak, **options) <= peak
    if schedule != "steps":
        assert learning_rate(warmup, peak, **options) == pytest.approx(peak)


@given(st.sampled_from(SHAPES), st.floats(0, 0.99), fractions, fractions)
def test_up_then_down(schedule, warmup, start, end):
    grid = [learning_rate(i / 50, 1.0, schedule=schedule, warmup=warmup, start=start, end=end) for i in range(51)]
    rising = [rate for i, rate in enumerate(grid) if i / 50 < warmup]
    falling = [rate for i, rate in enumerate(grid) if i / 50 >= warmup]
    assert all(a <= b + 1e-12 for a, b in pairwise(rising))
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))
