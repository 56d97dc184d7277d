"""What stands on two axes: quality against size or sparsity, and against the number of calibration sequences."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from nowag_exp.records.pairing import LOWER_IS_BETTER
from nowag_exp.records.wide import Column, Row, Section
from nowag_exp.report.rows import (
    Estimate,
    compressed,
    dense_estimate,
    drawn_columns,
    estimate,
    is_n_of_m,
    names,
    of_most_sequences,
    titles,
)

Axis = Literal["bits", "sparsity"]

MOST_POINTS = 40
MOST_LINES = 8
SPARSE = 0.0005
"""Less is 0.0% in the tables, and comes of weights that were 0 before."""


@dataclass(frozen=True)
class Point:
    """A row of a table.

    Attributes:
        name: of the row.
        method: gives colour and marker.
        n_of_m: whether its pattern is N:M, drawn hollow.
        x: bits, percent removed, or sequences.
        y: what was measured.
    """

    name: str
    method: str
    n_of_m: bool
    x: float
    y: Estimate


@dataclass(frozen=True)
class TradeOff:
    """Quality against size, or against sparsity.

    Attributes:
        front: points that none beats in one direction without losing in the other, from small to large models.
        left_out: in words; empty if all rows are there.
    """

    model: str
    axis: Axis
    column: Column
    title: str
    points: list[Point]
    front: list[Point]
    dense: Estimate | None
    left_out: str


@dataclass(frozen=True)
class Line:
    """Points of rows that differ in one thing alone, by growing ``x``."""

    name: str
    method: str
    n_of_m: bool
    points: list[Point]


@dataclass(frozen=True)
class Curves:
    """Quality against calibration sequences, a line a method and its settings."""

    model: str
    column: Column
    title: str
    lines: list[Line]
    dense: Estimate | None
    left_out: str


def trade_offs(section: Section, axis: Axis) -> list[TradeOff]:
    """One for each metric that some compressed row has."""
    rows = compressed(section)
    if axis == "sparsity":
        rows = [row for row in rows if row.setting["sparsity"] >= SPARSE]
    columns, found = drawn_columns(section), []
    for column, title in zip(columns, titles(columns), strict=True):
        measured = [row for row in rows if column in row.measured]
        kept, left_out = _limited(measured)
        points = [_point(row, name, column, axis) for row, name in zip(kept, names(kept), strict=True)]
        points, cut = _best(points, column.metric)
        if points:
            best = front(points, axis == "bits", column.metric in LOWER_IS_BETTER)
            dense = dense_estimate(section, column)
            notes = " ".join(filter(None, [left_out, cut]))
            found.append(TradeOff(section.model, axis, column, title, points, best, dense, notes))
    return found


def front(points: list[Point], lower_x: bool, lower_y: bool) -> list[Point]:
    """Points for which no other is at least as good in both directions and better in one, by growing ``x``.

    Args:
        points: in any order.
        lower_x: whether less ``x`` is better (bits), or more (sparsity).
        lower_y: whether less ``y`` is better.
    """
    sign_x, sign_y = (1 if lower_x else -1), (1 if lower_y else -1)
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (sign_x * point.x, sign_y * point.y.value)):
        if not kept or sign_y * point.y.value < sign_y * kept[-1].y.value:
            kept.append(point)
    return sorted(kept, key=lambda point: point.x)


def calibration_curves(section: Section) -> list[Curves]:
    """One for each metric that some method has at two calibration sizes or more."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in compressed(section):
        if not pd.isna(row.setting["n_sequences"]):
            alike = ("method", "settings", "propagate", "calibration", "context_length")
            groups.setdefault(tuple(str(row.setting[name]) for name in alike), []).append(row)
    columns, found = drawn_columns(section), []
    for column, title in zip(columns, titles(columns), strict=True):
        of_groups = [[row for row in group if column in row.measured] for group in groups.values()]
        of_groups = [group for group in of_groups if len({int(row.setting["n_sequences"]) for row in group}) > 1]
        labels = names([group[0] for group in of_groups])
        lines = [_line(group, name, column) for group, name in zip(of_groups, labels, strict=True)]
        if lines:
            kept, left_out = _fewer(lines, column.metric)
            found.append(Curves(section.model, column, title, kept, dense_estimate(section, column), left_out))
    return found


def _point(row: Row, name: str, column: Column, axis: str) -> Point:
    x = {"bits": ("bits_per_weight", 1), "sparsity": ("sparsity", 100), "sequences": ("n_sequences", 1)}[axis]
    y = estimate(column.metric, row.measured[column])
    return Point(name, str(row.setting["method"]), is_n_of_m(row), x[1] * float(row.setting[x[0]]), y)


def _line(rows: list[Row], name: str, column: Column) -> Line:
    points = [_point(row, name, column, "sequences") for row in rows]
    return Line(name, points[0].method, points[0].n_of_m, sorted(points, key=lambda point: point.x))


def _limited(rows: list[Row]) -> tuple[list[Row], str]:
    kept = rows if len(rows) <= MOST_POINTS else of_most_sequences(rows)
    n = len(rows) - len(kept)
    return kept, f"Left out: {n} rows that another one matches but for fewer calibration sequences." if n else ""


def _best(points: list[Point], metric: str) -> tuple[list[Point], str]:
    sign = 1 if metric in LOWER_IS_BETTER else -1
    kept = sorted(points, key=lambda point: sign * point.y.value)[:MOST_POINTS]
    n = len(points) - len(kept)
    points = [point for point in points if any(point is other for other in kept)]
    return points, f"Left out: the {n} worst rows." if n else ""


def _fewer(lines: list[Line], metric: str) -> tuple[list[Line], str]:
    """Of too many lines, those that are best at their largest calibration."""
    sign = 1 if metric in LOWER_IS_BETTER else -1
    best = sorted(lines, key=lambda line: sign * line.points[-1].y.value)[:MOST_LINES]
    n = len(lines) - len(best)
    kept = [line for line in lines if any(line is other for other in best)]
    return kept, f"Left out: the {n} lines that end worst." if n else ""
