"""Every mark of a figure stands at its value, whatever the records: held against the ends and scale of its axes alone.

They are looked at before they are saved, which is what takes the time; next door a few are held as saved.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from nowag_exp.calibration import CompressedLinear
from nowag_exp.records.record import Costs, RunRecord, StageCost
from nowag_exp.records.wide import sections
from nowag_exp.report import drawing, figures
from nowag_exp.report.costs import costs
from nowag_exp.report.heatmap import heat_maps
from nowag_exp.report.palette import styles
from nowag_exp.report.profile import profile
from nowag_exp.report.rows import Estimate
from nowag_exp.report.series import Point, calibration_curves, trade_offs

Make = Callable[..., RunRecord]
Place = tuple[float, float]
NO_ITEMS = Path("nothing here")
METHODS = ["magnitude", "nowag_p", "rtn", "wanda"]
LOOKS = styles(METHODS)

# Drawing is slow: a search for the smallest counterexample would take minutes.
few = settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
values = st.floats(5, 5000)
ERRORS = st.just(0.0) | st.floats(1e-7, 1.5)


def unsaved(make: Callable[[], object]) -> Figure:
    """A figure as it would be saved."""
    found: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "drawn", lambda figure, tips: found.append(figure))
        make()
    (figure,) = found
    return figure


def pixel(ax: Axes, x: float, y: float) -> Place:
    """Where values stand between the ends of their axes."""
    box = ax.get_window_extent()

    def between(value: float, ends: Place, scale: str, first: float, last: float) -> float:
        measure = {"log": math.log, "linear": float}[scale]
        low, high = map(measure, ends)
        return first + (last - first) * (measure(value) - low) / (high - low)

    return (
        between(x, ax.get_xlim(), ax.get_xscale(), box.x0, box.x1),
        between(y, ax.get_ylim(), ax.get_yscale(), box.y0, box.y1),
    )


def near(found: object, expected: object) -> bool:
    a, b = np.asarray(found, float), np.asarray(expected, float)
    return a.shape == b.shape and bool((abs(a - b) <= 0.5).all())


def corners(line: Line2D) -> list[Place]:
    return [(x, y) for x, y in line.get_transform().transform(line.get_xydata())]


def by_gid(ax: Axes) -> dict[str, Line2D]:
    return {str(line.get_gid()): line for line in ax.lines if line.get_gid()}


def strokes(ax: Axes) -> list[list[Place]]:
    """Ends of all vertical bars."""
    found = []
    for collection in ax.collections:
        assert isinstance(collection, LineCollection)
        found += [collection.get_transform().transform(ends).tolist() for ends in collection.get_segments()]
    return found


def assert_marked(ax: Axes, point: Point, gid: str) -> None:
    """Marker, error bar and spread of a point."""
    x, y = point.x, point.y
    assert near(corners(by_gid(ax)[gid]), [pixel(ax, x, y.value)])
    spread = [(y.value - y.spread, y.value + y.spread)] if y.spread else []
    for low, high in [(y.low, y.high), *spread]:
        assert any(near(ends, [pixel(ax, x, low), pixel(ax, x, high)]) for ends in strokes(ax))


def assert_dense(ax: Axes, dense: Estimate | None) -> None:
    assert dense is not None
    left, right = ax.get_xlim()
    assert any(near(corners(line), [pixel(ax, end, dense.value) for end in (left, right)]) for line in ax.lines)
    (band,) = (patch for patch in ax.patches if isinstance(patch, Rectangle))
    box = band.get_window_extent()
    assert near([box.min, box.max], [pixel(ax, left, dense.low), pixel(ax, right, dense.high)])


ROWS = st.lists(
    st.tuples(
        st.sampled_from(METHODS),
        st.sampled_from(["unstructured", "2:4"]),
        st.sampled_from([2.0, 2.1, 4.0, 4.25, 8.75, 9.0]),  # Bits.
        st.sampled_from([0.25, 0.5, 0.505, 0.75]),  # Sparsity.
        values.flatmap(
            lambda value: st.sampled_from([[value], [value, 1.02 * value], [value, 2 * value]])
        ),  # Of seeds.
        st.floats(0.05, 0.95),  # Accuracy.
    ),
    min_size=1,
    max_size=9,
)


@few
@given(rows=ROWS)
def test_every_marker_and_bar_of_a_trade_off_stands_at_its_value_and_the_front_goes_through_its_points(
    vary: Make, rows: list[tuple[str, str, float, float, list[float], float]]
) -> None:
    records = [vary("dense", "dense", 4.5)] + [
        # A number of sequences of its own keeps each a row; points may well lie on each other.
        vary(
            f"r{n}-{seed}", method, value,
            pattern=pattern, bits=bits, sparsity=sparsity, n_sequences=n + 1, accuracy=accuracy, seed=seed,
        )
        for n, (method, pattern, bits, sparsity, seeds, accuracy) in enumerate(rows)
        for seed, value in enumerate(seeds)
    ]  # fmt: skip
    (section,) = sections(records, NO_ITEMS)
    for axis in ("bits", "sparsity"):
        for data in trade_offs(section, axis):
            (ax,) = unsaved(lambda data=data: figures.trade_off(data, LOOKS)).axes
            recorded = [
                (
                    bits if axis == "bits" else 100 * sparsity,
                    mean(seeds) if data.column.metric == "perplexity" else 100 * accuracy,
                    stdev(seeds) if data.column.metric == "perplexity" and len(seeds) > 1 else 0.0,
                )
                for _, _, bits, sparsity, seeds, accuracy in rows
            ]
            shown = [(point.x, point.y.value, point.y.spread or 0.0) for point in data.points]
            assert np.allclose(sorted(shown), sorted(recorded))
            for number, point in enumerate(data.points):
                assert_marked(ax, point, f"point-{number}")
            assert_dense(ax, data.dense)
            fronts = [line for line in ax.lines if str(line.get_drawstyle()).startswith("steps")]
            assert len(fronts) == (len(data.front) > 1)
            for front in fronts:
                assert near(corners(front), [pixel(ax, point.x, point.y.value) for point in data.front])


@few
@given(of_methods=st.lists(st.lists(values, min_size=2, max_size=6), min_size=1, max_size=3))
def test_every_marker_and_bar_of_a_curve_stands_at_its_value_and_the_line_goes_through_them(
    vary: Make, of_methods: list[list[float]]
) -> None:
    records = [vary("dense", "dense", 4.5)] + [
        vary(f"{method}{n}", method, value, n_sequences=3**n)
        for method, of_method in zip(METHODS, of_methods, strict=False)
        for n, value in enumerate(of_method)
    ]
    (section,) = sections(records, NO_ITEMS)
    data = calibration_curves(section)[0]
    (ax,) = unsaved(lambda: figures.curves(data, LOOKS)).axes
    shown = {line.method: [(point.x, point.y.value) for point in line.points] for line in data.lines}
    assert shown == {
        method: [(3**n, pytest.approx(value)) for n, value in enumerate(of_method)]
        for method, of_method in zip(METHODS, of_methods, strict=False)
    }
    assert_dense(ax, data.dense)
    for number, line in enumerate(data.lines):
        for index, point in enumerate(line.points):
            assert_marked(ax, point, f"point-{number}-{index}")
        places = [pixel(ax, point.x, point.y.value) for point in line.points]
        assert any(near(corners(drawn), places) for drawn in ax.lines)


@few
@given(errors=st.lists(st.lists(ERRORS, min_size=3, max_size=3), min_size=1, max_size=9), odd=st.booleans())
def test_every_error_of_a_profile_stands_at_its_block_and_value_in_the_panel_of_its_linear(
    vary: Make, errors: list[list[float]], odd: bool
) -> None:
    linears = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")[: 3 if odd else 2]
    made = vary("w", "wanda", 9.0)
    recorded = [
        CompressedLinear(f"model.layers.{block}.{linear}", (10, 10), 50, "sparse", 875, error)
        for block, of_block in enumerate(errors)
        for linear, error in zip(linears, of_block, strict=False)
    ]
    (section,) = sections([replace(made, compression=replace(made.compression, linears=recorded))], NO_ITEMS)
    data = profile(section)
    assert data is not None
    figure = unsaved(lambda: figures.profile(data, LOOKS))
    for panel, (ax, linear) in enumerate(zip(figure.axes, linears, strict=False)):
        assert ax.get_title(loc="left") == linear
        expected = [pixel(ax, block, of_block[panel]) for block, of_block in enumerate(errors)]
        assert near(corners(by_gid(ax)[f"line-{panel}-0"]), expected)


@few
@given(
    spent=st.lists(
        st.tuples(*[st.floats(0, 5000)] * 4, *[st.none() | st.integers(10**6, 10**11)] * 2), min_size=1, max_size=6
    )
)
def test_bars_of_seconds_end_where_their_stages_do_and_marks_of_memory_stand_at_their_bytes(
    vary: Make, spent: list[tuple[float, float, float, float, int | None, int | None]]
) -> None:
    stages = ("calibration", "compression", "evaluation", "load")
    records = [
        replace(
            vary(f"w{n}", "wanda", 9.0, n_sequences=n + 1),
            costs=Costs(
                "2026-01-01T10:00:00+00:00",
                "2026-01-02T10:00:00+00:00",
                {name: StageCost(time, memory, gpu) for name, time in zip(stages, seconds, strict=True)},
            ),
        )
        for n, (*seconds, memory, gpu) in enumerate(spent)
    ]
    (section,) = sections(records, NO_ITEMS)
    data = costs(section)
    bars, marks = unsaved(lambda: figures.cost_bars(data)).axes
    of_row = [spent[row.records[0].labels.n_sequences - 1] for row in section.rows]
    drawn = {patch.get_gid(): patch.get_window_extent() for patch in bars.patches}
    for y, (*seconds, _, _) in enumerate(of_row):
        ends = [0.0, *np.cumsum(seconds)]
        for part in range(len(stages)):
            box = drawn[f"bar-{part}-{y}"]
            left, right = (pixel(bars, end, y) for end in ends[part : part + 2])
            assert near([(box.x0, (box.y0 + box.y1) / 2), (box.x1, (box.y0 + box.y1) / 2)], [left, right])
    for marker, column in (("o", 4), ("^", 5)):
        found = [place for line in marks.lines if line.get_marker() == marker for place in corners(line)]
        known = [(row[column] / 1e9, y) for y, row in enumerate(of_row) if row[column] is not None]
        assert near(sorted(found), sorted(pixel(marks, x, y) for x, y in known))


@few
@given(measured=st.lists(st.tuples(values, st.none() | values), min_size=2, max_size=4))
def test_every_cell_of_a_heat_map_and_its_text_stand_below_the_model_and_beside_the_method(
    vary: Make, measured: list[tuple[float, float | None]]
) -> None:
    records = [
        vary(f"{model}{method}", method, value, model=model)
        for method, pair in zip(["dense", *METHODS], measured, strict=False)
        for model, value in zip(("small", "large"), pair, strict=True)
        if value is not None
    ] + [vary("last", "wanda", 9.0, model="large")] * (all(large is None for _, large in measured[1:]))
    data = heat_maps(sections(records, NO_ITEMS))[0]
    (ax,) = unsaved(lambda: figures.heat_map(data)).axes
    columns = {label.get_text(): x for x, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)}
    lines = {label.get_text(): y for y, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    boxes = [patch.get_window_extent() for patch in ax.patches]
    texts = [(text.get_text(), text.get_transform().transform(text.get_position())) for text in ax.texts]
    for text in ax.texts:
        assert (text.get_ha(), text.get_va()) == ("center", "center")
    for name, line in zip(data.lines, data.cells, strict=True):
        for model, cell in zip(data.models, line, strict=True):
            middle = pixel(ax, columns[model], lines[name])
            assert any(near(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2), middle) for box in boxes)
            assert any(text == (cell.text if cell else "-") and near(place, middle) for text, place in texts)


def test_of_any_number_of_markers_at_one_place_none_is_hidden(vary: Make) -> None:
    records = [vary(f"w{n}", "wanda", 30.0, n_sequences=n) for n in range(1, 13)]
    (section,) = sections(records, NO_ITEMS)
    data = trade_offs(section, "bits")[0]
    (ax,) = unsaved(lambda: figures.trade_off(data, LOOKS)).axes
    sizes = [by_gid(ax)[f"point-{number}"].get_markersize() for number in range(12)]
    assert all(below > above + 0.25 for below, above in pairwise(sizes))
    assert sizes[0] <= 15, "points, of a figure that is 245 wide"
