import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.masks import Levels, sparsities
from pruning.masks.levels import SPACINGS

fractions = st.floats(0, 1)
ROUNDING = 2e-6


@given(fractions, fractions, st.integers(1, 20), st.sampled_from(SPACINGS), st.none() | st.lists(fractions, max_size=5))
def test_levels_increase_from_above_the_start_to_exactly_the_target(
    target: float, start: float, count: int, spacing: str, at: list[float] | None
) -> None:
    *between, last = sparsities(target, count=count, spacing=spacing, at=at, start=start)
    assert last == target
    assert all(a < b for a, b in itertools.pairwise([start, *between, *([target] if between else [])]))
    assert len(between) < (count if at is None else len(at) + 1)


@given(st.floats(0.1, 0.99), st.floats(0, 0.09), st.integers(1, 20))
def test_geometric_keeps_and_linear_prunes_the_same_at_each_level(target: float, start: float, count: int) -> None:
    for i, level in enumerate(sparsities(target, count=count, start=start), 1):
        assert 1 - level == pytest.approx((1 - start) * ((1 - target) / (1 - start)) ** (i / count), abs=ROUNDING)
    for i, level in enumerate(sparsities(target, count=count, spacing="linear", start=start), 1):
        assert level == pytest.approx(start + (target - start) * i / count, abs=ROUNDING)


@given(st.floats(0.1, 0.99), st.integers(2, 10), st.sampled_from(SPACINGS), st.data())
def test_from_a_level_the_way_goes_on_as_before(target: float, count: int, spacing: str, data: st.DataObject) -> None:
    way = sparsities(target, count=count, spacing=spacing)
    done = data.draw(st.integers(1, len(way) - 1))
    rest = sparsities(target, count=count - done, spacing=spacing, start=way[done - 1])
    assert rest == pytest.approx(way[done:], abs=ROUNDING)


@given(st.lists(fractions, max_size=6), fractions, fractions)
def test_the_way_to_a_higher_target_contains_the_way_to_a_lower_one(at: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    *between, _ = sparsities(low, at=at)
    assert between == list(sparsities(high, at=at))[: len(between)]


def test_levels_by_hand() -> None:
    assert sparsities(0.8) == (0.8,)
    assert sparsities(0.0, count=3) == (0.0,)
    assert sparsities(1.0, count=2) == (1.0,)
    assert sparsities(0.488, count=3) == (0.2, 0.36, 0.488)  # a fifth of what is left, as Frankle and Carbin
    assert sparsities(0.9, count=3, spacing="linear") == (0.3, 0.6, 0.9)
    assert sparsities(0.9, count=3, spacing="linear", start=0.6) == (0.7, 0.8, 0.9)
    assert sparsities(0.8, at=(0.9, 0.5, 0.8, 0.5, 0.2), start=0.2) == (0.5, 0.8)
    assert sparsities(0.3, count=3, start=0.5) == (0.3,)  # keep_top refuses it


def test_the_settings_are_those_of_the_function() -> None:
    options: dict[str, Any]
    for options in ({}, {"count": 3}, {"count": 4, "spacing": "linear"}, {"at": (0.2, 0.5)}):
        assert Levels(**options).sparsities(0.8, 0.1) == sparsities(0.8, start=0.1, **options)


def test_what_cannot_be_is_refused() -> None:
    options: dict[str, Any]
    unknown = r"spacing must be one of .*, got 'geometrical'; did you mean geometric\?"
    for options, text in (({"count": 0}, "count must be >= 1, got 0"), ({"spacing": "geometrical"}, unknown)):
        for make in (lambda: sparsities(0.8, **options), lambda: Levels(**options)):  # noqa: B023
            with pytest.raises(UserError, match=f"^{text}$"):
                make()
    for target, start, text in ((30.0, 0.0, r"target must be in \[0, 1\], got 30"), (0.5, -3.0, "start must be in")):
        with pytest.raises(UserError, match=f"^{text}"):
            sparsities(target, count=3, start=start)
