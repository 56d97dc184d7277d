import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.evaluation.significance import LEVEL, Difference, difference, holm, mean_difference, over_seeds

values = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=3, max_size=20)


def test_the_paired_t_test_worked_by_hand() -> None:
    # Gaps 1, 2, 3: mean 2, deviation 1, error 1/√3, t = 2√3 with 2 degrees of freedom, for which P(|t| > x) is
    # 1 - x / √(x² + 2) = 1 - √12 / √14.
    found = difference(np.array([0.5, 0.5, 0.5]), np.array([1.5, 2.5, 3.5]))
    assert found is not None
    assert (found.value, found.test, found.n) == (2, "paired t", 3)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))
    assert found.p_value == pytest.approx(1 - math.sqrt(12 / 14))


def test_mcnemar_worked_by_hand() -> None:
    # Six items on which only one was right: 1 for a, 5 for b. Of 2^6 sequences 2 (1 + 6) are at least as one-sided.
    a = np.array([1.0, 0, 0, 0, 0, 0, 1, 1, 0])
    b = np.array([0.0, 1, 1, 1, 1, 1, 1, 1, 0])
    found = difference(a, b)
    assert found is not None
    assert found.test == "McNemar, exact"
    assert found.p_value == pytest.approx(14 / 64)
    assert found.value == pytest.approx(4 / 9)


def test_mcnemar_equals_the_count_of_all_sign_patterns() -> None:
    for gained, lost in [(0, 1), (2, 2), (7, 1), (3, 6)]:
        a = np.array([0.0] * gained + [1.0] * lost + [1, 0])
        found = difference(a, np.array([1.0] * gained + [0.0] * lost + [1, 0]))
        patterns = [sum(signs) for signs in product([1, -1], repeat=gained + lost)]
        extreme = sum(abs(total) >= abs(gained - lost) for total in patterns)
        assert found is not None
        assert found.p_value == pytest.approx(extreme / len(patterns))


@given(a=values, shift=st.floats(-3, 3))
def test_swapping_the_two_turns_the_sign_and_nothing_else(a: list[float], shift: float) -> None:
    first = np.array(a)
    second = first[::-1] + shift
    one, other = difference(first, second), difference(second, first)
    assert one is not None
    assert other is not None
    assert one.value == pytest.approx(-other.value)
    assert (one.p_value, one.standard_error) == pytest.approx((other.p_value, other.standard_error))
    assert 0 <= one.p_value <= 1


def test_equal_models_do_not_differ_and_a_constant_gap_surely_does() -> None:
    same = np.array([0.25, 0.5, 1.5])
    equal, apart = difference(same, same), difference(same, same + 1)
    assert equal is not None
    assert apart is not None
    assert (equal.value, equal.p_value) == (0, 1)
    assert (apart.value, apart.p_value) == (1, 0)


def test_of_many_true_null_hypotheses_about_one_in_twenty_is_rejected() -> None:
    generator = np.random.default_rng(0)
    rejected = 0
    for _ in range(2000):
        found = difference(generator.normal(size=16), generator.normal(size=16))
        assert found is not None
        rejected += found.p_value < 0.05
    assert 60 <= rejected <= 140  # 100 expected, four standard deviations either way


def test_one_window_tells_nothing() -> None:
    assert difference(np.array([1.0]), np.array([2.0])) is None


def test_the_mean_over_tasks_worked_by_hand() -> None:
    found = mean_difference([Difference(0.1, 0.03, 0.5, "x", 10, 9.0), Difference(0.3, 0.04, 0.5, "x", 20, 19.0)])
    assert found.value == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.025)
    assert found.p_value == pytest.approx(math.erfc(8 / math.sqrt(2)))
    assert found.n == 30


def test_the_test_over_seeds_worked_by_hand() -> None:
    clear = Difference(1.0, 0.1, 1e-6, "paired t", 16, 15.0)
    found = over_seeds(clear, [[4.0, 6.0], [5.0, 7.0]])
    # Variance 2 over 2 seeds a side: 0.01 + 1 + 1; Welch and Satterthwaite: 2.01² / (0.01² / 15 + 1 + 1) = 2.02, but
    # there are only 2 seeds beyond one a side. P(|t| > x) with 2 degrees is 1 - x / √(x² + 2).
    x = 1 / math.sqrt(2.01)
    assert found.standard_error == pytest.approx(math.sqrt(2.01))
    assert found.freedom == 2
    assert found.p_value == pytest.approx(1 - x / math.sqrt(x**2 + 2))
    # One side that scatters far more than the other has all the freedom: 3 seeds give 2, not 4.
    lopsided = over_seeds(Difference(1.0, 0.0, 0.0, "paired t", 16, 15.0), [[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
    assert lopsided.freedom == pytest.approx(2)
    # A side that draws nothing has no scatter of its own.
    assert over_seeds(clear, [[4.0, 6.0]]).standard_error == pytest.approx(math.sqrt(1.01))
    assert over_seeds(clear, [[5.0, 5.01, 4.99], [6.0, 6.01, 5.99]]).p_value < 0.01


def test_seeds_that_do_not_scatter_leave_the_windows_alone() -> None:
    found = over_seeds(Difference(0.0, 0.0, 1.0, "paired t", 16, 15.0), [[1.0, 1.0], [1.0, 1.0]])
    assert (found.standard_error, found.p_value) == (0, 1)


@given(a=values, b=values)
def test_the_smallest_difference_shown_is_where_the_p_value_is_the_level(a: list[float], b: list[float]) -> None:
    n = min(len(a), len(b))
    found = difference(np.array(a[:n]), np.array(b[:n]) + 0.001)
    assert found is not None
    smallest = found.smallest_shown()
    if found.n_discordant is None and found.standard_error > 1e-9:
        assert smallest is not None
        assert (abs(found.value) > smallest) == (found.p_value < LEVEL)
        moved = np.array(b[:n]) + 0.001 - found.value + smallest * 1.0001
        again = difference(np.array(a[:n]), moved)
        assert again is not None
        assert again.p_value == pytest.approx(LEVEL, rel=0.01)


def test_of_items_too_few_that_differ_could_not_have_shown_anything() -> None:
    five = difference(np.array([0.0] * 5 + [1.0] * 5), np.array([1.0] * 5 + [1.0] * 5))
    six = difference(np.array([0.0] * 6 + [1.0] * 4), np.array([1.0] * 6 + [1.0] * 4))
    assert five is not None
    assert six is not None
    assert five.smallest_shown() is None, "even five of five are chance once in 16"
    assert six.smallest_shown() == pytest.approx(6 / 10), "six of six once in 32"


def test_holm_worked_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1: 0.03, 0.04, 0.04.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(after >= before for before, after in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
