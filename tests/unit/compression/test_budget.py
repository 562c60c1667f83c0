"""Budgets: exact sums, bounds, proportion; curricula."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from chiasm.compression.budget import BudgetConfig, apportion, part_of
from chiasm.compression.schedule import ScheduleConfig, SchedulePoint, Setting
from chiasm.core.errors import CompressionError, InputError


@st.composite
def divisions(draw: st.DrawFn) -> tuple[int, list[float], list[int], list[int]]:
    """A total, weights, and bounds that admit it."""
    size = draw(st.integers(1, 7))
    least = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    more = draw(st.lists(st.integers(0, 50), min_size=size, max_size=size))
    most = [low + extra for low, extra in zip(least, more, strict=True)]
    weight = st.one_of(st.just(0.0), st.floats(0.001, 1000))
    weights = draw(st.lists(weight, min_size=size, max_size=size))
    return draw(st.integers(sum(least), sum(most))), weights, least, most


@settings(max_examples=200, deadline=None)
@given(case=divisions())
def test_parts_sum_exactly_within_bounds(
    case: tuple[int, list[float], list[int], list[int]],
) -> None:
    total, weights, least, most = case
    parts = apportion(total, weights, least, most)
    assert sum(parts) == total
    assert all(low <= part <= high for low, part, high in zip(least, parts, most, strict=True))
    # Between bounds, more weight never gets less.
    for a, first in enumerate(parts):
        for b, second in enumerate(parts):
            if weights[a] > weights[b] and first < most[a] and second > least[b]:
                assert first >= second - 1


def test_parts_are_in_proportion() -> None:
    assert apportion(60, [1, 2, 3], [0] * 3, [100] * 3) == [10, 20, 30]
    assert apportion(60, [1, 2, 3], [15, 0, 0], [100] * 3) == [15, 18, 27]
    assert apportion(60, [1, 2, 3], [0] * 3, [100, 100, 24]) == [12, 24, 24]
    assert apportion(7, [1, 1, 1], [0] * 3, [9] * 3) == [3, 2, 2]
    assert apportion(6, [0, 0], [0, 0], [10, 20]) == [2, 4]
    # What the heavy one cannot hold goes to one without weight.
    assert apportion(12, [5, 0], [0, 0], [10, 10]) == [10, 2]


def test_totals_that_do_not_fit() -> None:
    with pytest.raises(CompressionError, match=r"21 tokens cannot .* between 3 and 20"):
        apportion(21, [1, 1], [1, 2], [10, 10])


def test_even_budgets_keep_the_ratio_of_each() -> None:
    assert BudgetConfig(ratio=0.5).build().allot([7, 2, 1, 100]) == [4, 1, 1, 50]
    assert BudgetConfig(ratio=0.25).build().allot([10], ratio=0.5) == [5]
    assert part_of(3, 0.01) == 1


def test_shared_budgets_keep_their_total_whatever_the_content() -> None:
    budget = BudgetConfig(ratio=0.5, spread="shared").build()
    assert budget.allot([100, 100], [0.5, 0.5]) == [50, 50]
    assert budget.allot([100, 100], [0.6, 0.2]) == [75, 25]
    assert budget.allot([100, 100], [1.0, 0.0]) == [75, 25]
    assert budget.allot([100, 100, 40], [0.0, 0.0, 0.0]) == [50, 50, 20]
    assert sum(budget.allot([97, 89, 41], [0.9, 0.05, 0.4])) == part_of(97 + 89 + 41, 0.5)


def test_content_budgets_follow_the_content_within_bounds() -> None:
    budget = BudgetConfig(ratio=0.5, spread="content", usual=0.25, highest=0.9).build()
    found = budget.allot([100] * 5, [0.0, 0.1, 0.25, 0.375, 1.0])
    assert found == [25, 25, 50, 75, 90]
    assert budget.allot([100, 100], [0.0, 1.0], ratio=0.125) == [13, 50]


@pytest.mark.parametrize("spread", ["shared", "content"])
def test_content_is_asked_for(spread: str) -> None:
    budget = BudgetConfig(spread=spread).build()
    with pytest.raises(InputError, match=f"{spread!r} needs the importance of all 2 clips"):
        budget.allot([5, 7])


def test_ratios_and_bounds_are_checked() -> None:
    with pytest.raises(InputError, match=r"ratio 1.5 of tokens"):
        BudgetConfig().build().allot([3], ratio=1.5)
    with pytest.raises(ValidationError, match=r"ratio 0.1 outside of its bounds \[0.25, 1.0\]"):
        BudgetConfig(ratio=0.1, spread="content")
    assert BudgetConfig(ratio=0.1).ratio == 0.1


def test_default_curriculum_takes_motion_first() -> None:
    schedule = ScheduleConfig().build()
    assert schedule.at(0) == Setting(1.0, 1.0, 0.0)
    assert schedule.at(0.32) == Setting(1.0, 1.0, 0.0)
    assert schedule.at(0.5) == Setting(0.75, 1.0, 0.0)
    assert schedule.at(1) == Setting(0.5, 0.5, 0.5)


def test_smooth_curricula_run_on_straight_lines() -> None:
    points = (
        SchedulePoint(at=0, ratio=1.0, motion=1, saliency=0),
        SchedulePoint(at=0.5, ratio=0.6, motion=0.5, saliency=0.5),
    )
    schedule = ScheduleConfig(points=points, smooth=True).build()
    assert schedule.at(0.25) == pytest.approx(Setting(0.8, 0.75, 0.25))
    assert schedule.at(0.5) == schedule.at(1) == Setting(0.6, 0.5, 0.5)


@pytest.mark.parametrize(
    ("moments", "message"),
    [((0.1, 0.5), "first must be at 0"), ((0, 0.5, 0.5), "later than the one before")],
)
def test_points_are_in_order(moments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ScheduleConfig(points=tuple(SchedulePoint(at=at, ratio=0.5) for at in moments))


def test_weights_and_progress_are_checked() -> None:
    with pytest.raises(ValidationError, match="both 0"):
        SchedulePoint(at=0, ratio=0.5, motion=0, saliency=0)
    with pytest.raises(InputError, match=r"progress 1.2 of training; give step / steps"):
        ScheduleConfig().build().at(1.2)
