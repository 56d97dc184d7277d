"""Places on an axis: round ticks, plain labels, and markers that do not hide each other."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.report.axes import is_log, limits, side_by_side, tick_label, ticks


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0, 10, False, [0, 5, 10]),
        (40, 60, False, [40, 45, 50, 55, 60]),
        (8.4, 9.3, False, [8.4, 8.6, 8.8, 9.0, 9.2]),
        (20, 3000, True, [30, 100, 300, 1000, 3000]),
        (1, 1e6, True, [1, 10, 100, 1000, 1e4, 1e5, 1e6]),
        (2, 17, True, [2, 5, 10]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, log: bool, expected: list[float]) -> None:
    assert ticks(low, high, log) == pytest.approx(expected)


@given(low=st.floats(1e-3, 1e5), ratio=st.floats(1.05, 1e8), log=st.booleans())
def test_ticks_are_within_the_limits_enough_and_not_too_many(low: float, ratio: float, log: bool) -> None:
    found = ticks(low, low * ratio, log)
    assert 3 <= len(found) <= 8
    assert found == sorted(set(found))
    assert all(low * (1 - 1e-9) <= tick <= low * ratio * (1 + 1e-9) for tick in found)
    labels = [tick_label(tick) for tick in found]
    assert len(set(labels)) == len(labels), "no two ticks say the same"


@pytest.mark.parametrize(
    ("value", "label"),
    [(22, "22"), (0.05, "0.05"), (1900, "1,900"), (30000, "30,000"), (1e5, "10⁵"), (3e6, "3·10⁶"), (8.25, "8.25")],
)
def test_labels_are_plain_text(value: float, label: str) -> None:
    assert tick_label(value) == label


def test_values_over_decades_get_a_logarithmic_axis_and_zero_never_does() -> None:
    assert is_log([20, 1900])
    assert not is_log([20, 30])
    assert not is_log([0, 1900])


def test_limits_leave_room_even_around_one_value() -> None:
    assert limits(10, 20, False, 0.1) == (9, 21)
    low, high = limits(10, 1000, True, 0.1)
    assert (low * high, high / 1000) == pytest.approx((10 * 1000, 100**0.1))
    for log in (False, True):
        low, high = limits(50, 50, log)
        assert low < 50 < high


def test_only_points_that_lie_on_each_other_step_aside() -> None:
    alone, below, above, touching = (0.1, (0.0, 0.1)), (0.5, (0.0, 0.1)), (0.5, (0.5, 0.6)), (0.505, (0.58, 0.7))
    places, ranges = zip(alone, below, above, touching, strict=True)
    assert side_by_side(places, ranges, near=0.01) == [0, 0, -0.5, 0.5]


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.8]), st.floats(0, 1), st.floats(0, 0.3)), max_size=12))
def test_no_two_points_share_a_place(points: list[tuple[float, float, float]]) -> None:
    ranges = [(low, low + height) for _, low, height in points]
    steps = side_by_side([place for place, _, _ in points], ranges, near=0.01)
    for i, (place, _, _) in enumerate(points):
        for j in range(i):
            overlap = ranges[i][0] <= ranges[j][1] and ranges[j][0] <= ranges[i][1]
            if place == points[j][0] and overlap:
                assert steps[i] != steps[j]
    assert math.isclose(sum(steps), 0, abs_tol=1e-9)
