"""Places on an axis: round ticks, plain labels, and markers that do not hide each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.report.axes import is_log, layers, limits, tick_label, ticks


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


def test_a_point_has_a_layer_for_each_later_one_that_lies_on_it() -> None:
    assert layers([(0, 0), (3, 0), (0, 0), (9, 9), (0, 4)], near=4) == [3, 1, 1, 0, 0]


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 50.0]), st.sampled_from([0.0, 1.0, 50.0])), max_size=12))
def test_of_points_at_one_place_no_two_are_of_one_size(points: list[tuple[float, float]]) -> None:
    found = layers(points, near=0.5)
    assert len(set(zip(points, found, strict=True))) == len(points)
