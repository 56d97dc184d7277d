"""Whatever a saved figure shows stands where its value is, as a reader with a ruler on the printed ticks would find it.

Next door the same is held of any records, before they are saved.
"""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nowag_exp.records.record import RunRecord
from nowag_exp.records.wide import sections
from nowag_exp.report import figures
from nowag_exp.report.costs import PARTS, costs
from nowag_exp.report.heatmap import heat_maps
from nowag_exp.report.palette import styles
from nowag_exp.report.profile import profile
from nowag_exp.report.series import calibration_curves, trade_offs

Make = Callable[..., RunRecord]
NO_ITEMS = Path("nothing here")
HALF_A_PIXEL = 0.5
SVG = "{http://www.w3.org/2000/svg}"
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹−", "0123456789-")


def number_of(label: str) -> float:
    """``1,900``, ``50%``, ``10⁵`` and ``3·10⁵`` as numbers."""
    text = label.replace(",", "").rstrip("%")
    if power := re.fullmatch(r"(?:(.+)·)?10([⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text):
        return float(power[1] or 1) * 10.0 ** int(power[2].translate(RAISED))
    return float(text.translate(RAISED))


@dataclass(frozen=True)
class Ruler:
    """An axis as its printed ticks say: places in pixels, and the numbers beside them."""

    places: list[float]
    numbers: list[float]

    def pixel(self, value: float) -> float:
        """Where a value stands; linear or logarithmic, whichever the ticks are."""
        a, b = self.places[0], self.places[-1]
        for scale in (float, math.log) if min(self.numbers) > 0 else (float,):
            low, high = scale(self.numbers[0]), scale(self.numbers[-1])
            where = [a + (b - a) * (scale(number) - low) / (high - low) for number in self.numbers]
            if all(abs(x - y) < 0.1 for x, y in zip(where, self.places, strict=True)):
                return a + (b - a) * (scale(value) - low) / (high - low)
        raise AssertionError(f"ticks {self.numbers} at {self.places} are neither linear nor logarithmic")


class Page:
    """A drawn figure."""

    def __init__(self, svg: str) -> None:
        self.root = ET.fromstring(svg)
        self.by_id = {node.get("id"): node for node in self.root.iter() if node.get("id")}

    def ruler(self, axes: int, axis: str) -> Ruler:
        """Of the axes of a number, from 1."""
        pairs = []
        for tick in self.by_id[f"axes_{axes}"].iter(f"{SVG}g"):
            if not re.fullmatch(rf"{axis}tick_\d+", tick.get("id") or ""):
                continue
            # A grid line is a path, the mark of a tick is used.
            (place,) = {float(use.get(axis) or "nan") for use in tick.iter(f"{SVG}use")}
            texts = [text.text for text in tick.iter(f"{SVG}text") if text.text]
            if texts:
                pairs.append((place, number_of(texts[0])))
        places, numbers = zip(*pairs, strict=True)
        return Ruler(list(places), list(numbers))

    def markers(self, gid: str) -> list[tuple[float, float]]:
        """Centres of the markers of one id."""
        return [(float(use.get("x") or "nan"), float(use.get("y") or "nan")) for use in self.uses(gid)]

    def uses(self, gid: str) -> list[ET.Element]:
        return list(self.by_id[gid].iter(f"{SVG}use"))

    def paths(self, gid: str) -> list[list[tuple[float, float]]]:
        """Corners of the paths of one id, without those of a marker's shape."""
        shapes = [path for defs in self.by_id[gid].iter(f"{SVG}defs") for path in defs.iter(f"{SVG}path")]
        return [corners(path) for path in self.by_id[gid].iter(f"{SVG}path") if path not in shapes]

    def lines(self) -> list[list[tuple[float, float]]]:
        return [corners(path) for path in self.root.iter(f"{SVG}path")]


def corners(path: ET.Element) -> list[tuple[float, float]]:
    numbers = re.findall(r"[ML]\s*(-?[\d.]+)\s+(-?[\d.]+)", path.get("d") or "")
    return [(float(x), float(y)) for x, y in numbers]


def near(found: tuple[float, float], expected: tuple[float, float]) -> bool:
    return all(abs(a - b) <= HALF_A_PIXEL for a, b in zip(found, expected, strict=True))


ROWS = (
    ("wanda", "2:4", 2.0, 0.5, 5.0, 0.05),
    ("wanda", "unstructured", 9.0, 0.5, 5.01, 0.95),
    ("rtn", "unstructured", 9.0, 0.25, 4900.0, 0.5),
    ("nowag_p", "2:4", 9.0, 0.505, 5.0, 0.5),
    ("nowag_p", "2:4", 8.75, 0.75, 31.5, 0.5),
)
"""Method, pattern, bits, sparsity, perplexity, accuracy: both axes logarithmic and linear; some lie on each other."""


def test_every_marker_of_a_trade_off_stands_at_its_value_and_the_front_goes_through_its_points(vary: Make) -> None:
    records = [vary("dense", "dense", 4.5)] + [
        # A number of sequences of its own keeps each a row; points may well lie on each other.
        vary(f"r{n}", method, value, pattern=pattern, bits=bits, sparsity=sparsity, n_sequences=n + 1, accuracy=acc)
        for n, (method, pattern, bits, sparsity, value, acc) in enumerate(ROWS)
    ]
    (section,) = sections(records, NO_ITEMS)
    for axis in ("bits", "sparsity"):
        for data in trade_offs(section, axis)[:1] if axis == "sparsity" else trade_offs(section, axis):
            drawn = Page(figures.trade_off(data, styles([p.method for p in data.points])).svg)
            x, y = drawn.ruler(1, "x"), drawn.ruler(1, "y")
            places = [(x.pixel(point.x), y.pixel(point.y.value)) for point in data.points]
            for number, place in enumerate(places):
                (marker,) = drawn.markers(f"point-{number}")
                assert near(marker, place)
            for point, place in zip(data.points, places, strict=True):
                bar = [(place[0], y.pixel(end)) for end in (point.y.low, point.y.high)]
                assert any(
                    len(line) == 2 and all(near(*pair) for pair in zip(line, bar, strict=True))
                    for line in drawn.lines()
                ), "an error bar goes from end to end, through its marker"
            if len(data.front) > 1:
                through = [(x.pixel(point.x), y.pixel(point.y.value)) for point in data.front]
                assert any(
                    all(any(near(corner, place) for corner in line) for place in through) for line in drawn.lines()
                )


def test_markers_at_one_place_are_of_different_sizes(vary: Make) -> None:
    records = [vary(f"w{n}", "wanda", 30.0, n_sequences=n) for n in (1, 2, 3)]
    (section,) = sections(records, NO_ITEMS)
    data = trade_offs(section, "bits")[0]
    drawn = Page(figures.trade_off(data, styles(["wanda"])).svg)
    assert len({place for number in range(3) for place in drawn.markers(f"point-{number}")}) == 1
    heights = []
    for number in range(3):
        shape = drawn.by_id[f"point-{number}"].find(f".//{SVG}defs/{SVG}path")
        assert shape is not None
        ends = [float(y) for _, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", shape.get("d") or "")]
        heights.append(max(ends) - min(ends))
    assert heights[0] > 1.2 * heights[1] > 1.2 * 1.2 * heights[2]


def test_curves_profiles_and_bars_stand_at_their_values(vary: Make) -> None:
    records = [vary(f"w{n}", "wanda", value, n_sequences=2**n) for n, value in enumerate((4900.0, 30.0, 31.0, 5.0))]
    (section,) = sections(records, NO_ITEMS)
    looks = styles(["wanda"])

    data = calibration_curves(section)[0]
    drawn = Page(figures.curves(data, looks).svg)
    x, y = drawn.ruler(1, "x"), drawn.ruler(1, "y")
    for number, line in enumerate(data.lines):
        for index, point in enumerate(line.points):
            (marker,) = drawn.markers(f"point-{number}-{index}")
            assert near(marker, (x.pixel(point.x), y.pixel(point.y.value)))

    errors = profile(section)
    assert errors is not None
    drawn = Page(figures.profile(errors, looks).svg)
    # Only the lowest panels have numbers below them, only those on the left beside them; the scales are shared.
    y = drawn.ruler(1, "y")
    for number, row in enumerate(errors.lines):
        (path, *_) = drawn.paths(f"line-0-{number}")
        expected = [y.pixel(error) for _, error in sorted(row.errors[errors.linears[0]].items())]
        assert all(abs(a[1] - b) <= HALF_A_PIXEL for a, b in zip(path, expected, strict=True))

    spent = costs(section)
    drawn = Page(figures.cost_bars(spent).svg)
    x = drawn.ruler(1, "x")
    for place, row in enumerate(spent.drawn):
        end = 0.0
        for part in range(len(PARTS)):
            (bar,) = drawn.paths(f"bar-{part}-{place}")
            before, end = end, end + row.seconds[list(PARTS)[part]]
            assert min(corner[0] for corner in bar) == pytest.approx(x.pixel(before), abs=HALF_A_PIXEL)
            assert max(corner[0] for corner in bar) == pytest.approx(x.pixel(end), abs=HALF_A_PIXEL)


def test_the_value_of_a_cell_stands_in_its_middle(vary: Make) -> None:
    records = [
        vary(f"{model}{method}", method, value, model=model)
        for model, scale in (("small", 1), ("large", 2))
        for method, value in (("dense", 5.0 * scale), ("wanda", 17.25 * scale), ("nowag_p", 9.5 * scale))
    ]
    data = heat_maps(sections(records, NO_ITEMS))[0]
    drawn = Page(figures.heat_map(data).svg)
    for y, line in enumerate(data.cells):
        for x, cell in enumerate(line):
            assert cell is not None
            ((*cell_corners,),) = drawn.paths(f"cell-{y}-{x}")
            left, right = (end(corner[0] for corner in cell_corners) for end in (min, max))
            low, high = (end(corner[1] for corner in cell_corners) for end in (min, max))
            (text,) = [text for text in drawn.root.iter(f"{SVG}text") if text.text == cell.text]
            at = re.search(r"translate\((-?[\d.]+) (-?[\d.]+)\)", text.get("transform") or "")
            place = (float(at[1]), float(at[2])) if at else (float(text.get("x") or 0), float(text.get("y") or 0))
            assert left < place[0] < right
            assert low < place[1] < high
