import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.evaluation.significance import Difference, difference, holm, mean_difference, with_spread

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
    found = mean_difference([Difference(0.1, 0.03, 0.5, "x", 10), Difference(0.3, 0.04, 0.5, "x", 20)])
    assert found.value == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.025)
    assert found.p_value == pytest.approx(math.erfc(8 / math.sqrt(2)))
    assert found.n == 30


def test_scattered_seeds_make_a_clear_difference_uncertain() -> None:
    clear = Difference(1.0, 0.1, 1e-6, "paired t", 16)
    assert with_spread(clear, [5.0], [6.0]) == clear
    widened = with_spread(clear, [4.0, 6.0], [5.0, 7.0])
    # Variance 2 over 2 seeds a side: 0.01 + 1 + 1.
    assert widened.standard_error == pytest.approx(math.sqrt(2.01))
    assert widened.p_value > 0.3
    assert with_spread(clear, [5.0, 5.01, 4.99], [6.0, 6.01, 5.99]).p_value < 0.01


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
