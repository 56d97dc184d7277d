"""What stands on the axes: points, fronts, curves, and what was left out."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.records.record import RunRecord
from nowag_exp.records.wide import Section, sections
from nowag_exp.report.rows import Estimate, names
from nowag_exp.report.series import MOST_LINES, MOST_POINTS, Point, calibration_curves, front, trade_offs

Make = Callable[..., RunRecord]


def point(x: float, y: float) -> Point:
    return Point(f"{x} {y}", "wanda", False, x, Estimate(y, y, y, None, ""))


def test_the_front_of_five_points() -> None:
    best, cheap, beaten, tie, large = point(2, 30), point(1, 90), point(2, 40), point(3, 30), point(4, 25)
    assert front([large, tie, beaten, cheap, best], lower_x=True, lower_y=True) == [cheap, best, large]
    # Against sparsity more is better, and so is more accuracy.
    assert front([point(50, 80), point(60, 80), point(70, 60), point(65, 50)], lower_x=False, lower_y=False) == [
        point(60, 80),
        point(70, 60),
    ]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), unique=True, max_size=12), st.booleans(), st.booleans()
)
def test_the_front_is_what_no_other_point_beats(pairs: list[tuple[int, int]], lower_x: bool, lower_y: bool) -> None:
    def at_least_as_good(a: int, b: int, lower: bool) -> bool:
        return a <= b if lower else a >= b

    expected = {
        own
        for own in pairs
        if not any(
            other != own and at_least_as_good(other[0], own[0], lower_x) and at_least_as_good(other[1], own[1], lower_y)
            for other in pairs
        )
    }
    found = front([point(*pair) for pair in pairs], lower_x, lower_y)
    assert {(kept.x, kept.y.value) for kept in found} == expected
    assert [kept.x for kept in found] == sorted(kept.x for kept in found)


def test_points_are_of_compressed_rows_with_the_tables_text(vary: Make, tmp_path: Path) -> None:
    records = [
        vary("a", "dense", 20.0),
        vary("b", "wanda", 30.0, pattern="2:4", bits=8.75, accuracy=0.25),
        vary("c", "rtn", 40.0, sparsity=0.0, bits=4.25),
    ]
    (section,) = sections(records, tmp_path)
    perplexity, accuracy = trade_offs(section, "bits")
    assert sorted((p.name, p.x, p.n_of_m) for p in perplexity.points) == [
        ("rtn 0%", 4.25, False),
        ("wanda 2:4", 8.75, True),
    ]
    of_wanda = next(p.y for p in perplexity.points if p.method == "wanda")
    assert of_wanda.text == "30.00 ± 0.25"
    # The error is of the logarithm: one factor up and down.
    assert (of_wanda.low, of_wanda.high) == pytest.approx((30 * math.exp(-0.25 / 30), 30 * math.exp(0.25 / 30)))
    assert perplexity.dense is not None
    assert perplexity.dense.text == "20.00 ± 0.25"
    percent = next(p.y for p in accuracy.points if p.method == "wanda")
    assert (percent.value, percent.low, percent.high) == pytest.approx((25, 23, 27))
    (against_sparsity, _) = trade_offs(section, "sparsity")
    assert [(p.name, p.x) for p in against_sparsity.points] == [("wanda 2:4", 50)]


def test_seeds_share_a_point_and_show_their_spread(of_models: list[Section]) -> None:
    section = of_models[-1]
    curve = calibration_curves(section)[0]
    (line,) = curve.lines
    assert [p.x for p in line.points] == [2, 8, 16]
    # Two seeds that are 0.25 apart: mean and sample standard deviation.
    assert line.points[0].y.value == pytest.approx(9.0 - 0.1 + 0.125)
    assert line.points[0].y.spread == pytest.approx(0.25 / math.sqrt(2))


def test_a_single_size_makes_no_curve(vary: Make, tmp_path: Path) -> None:
    (section,) = sections([vary("a", "wanda", 20.0), vary("b", "nowag_p", 21.0, n_sequences=16)], tmp_path)
    assert calibration_curves(section) == []


def test_names_tell_rows_apart_and_say_no_more(vary: Make, tmp_path: Path) -> None:
    records = [vary("a", "wanda", 20.0, n_sequences=1), vary("b", "wanda", 19.0), vary("c", "nowag_p", 21.0)]
    (section,) = sections(records, tmp_path)
    assert sorted(names(section.rows)) == ["nowag_p 50%", "wanda 50%, 1 sequence", "wanda 50%, 8 sequences"]


def test_too_many_rows_are_cut_and_it_is_said(vary: Make, tmp_path: Path) -> None:
    same = [vary(f"n{n}", "wanda", 50.0 - n, n_sequences=n) for n in range(1, 11)]
    others = [vary(f"s{n}", "nowag_p", 20.0 + n, sparsity=n / 100) for n in range(1, MOST_POINTS + 5)]
    (section,) = sections([*same, *others], tmp_path)
    (found, _) = trade_offs(section, "bits")
    assert len(found.points) == MOST_POINTS
    assert [p.y.value for p in found.points if p.method == "wanda"] == [40.0], "the one of most sequences"
    assert found.left_out == (
        "Left out: 9 rows that another one matches but for fewer calibration sequences. Left out: the 5 worst rows."
    )
    many = [
        vary(f"{settings}-{n}", "wanda", 10.0 + settings + n / 9, sparsity=settings / 100, n_sequences=n)
        for settings in range(10, 20)
        for n in (1, 2)
    ]
    (section,) = sections(many, tmp_path)
    (curves, _) = calibration_curves(section)
    assert len(curves.lines) == MOST_LINES
    assert curves.left_out == "Left out: the 2 lines that end worst."
