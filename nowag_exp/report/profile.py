"""How far the weights of each linear moved, block by block."""

import re
from dataclasses import dataclass

import numpy as np

from nowag_exp.records.pairing import LOWER_IS_BETTER
from nowag_exp.records.record import RunRecord
from nowag_exp.records.wide import Row, Section
from nowag_exp.report.rows import compressed, drawn_columns, is_n_of_m, names, of_most_sequences

MOST_LINES = 8
IN_BLOCK = re.compile(r"\.(\d+)\.(.+)$")
"""``model.layers.3.mlp.up_proj``: the block's number, and which of its linears."""

Errors = dict[str, dict[int, float]]
"""Relative errors by linear, then by block."""


@dataclass(frozen=True)
class ProfileLine:
    """One row: errors by linear and block, the mean over its seeds."""

    name: str
    method: str
    n_of_m: bool
    errors: Errors


@dataclass(frozen=True)
class Profile:
    """One model.

    Attributes:
        linears: in the order of the block.
        left_out: in words; empty if all rows are there.
    """

    model: str
    linears: list[str]
    lines: list[ProfileLine]
    left_out: str


def profile(section: Section) -> Profile | None:
    """``None`` if the model has no compressed row.

    Of too many rows each method keeps its best, by the first metric that has figures; the others go by the same order.
    """
    rows, left_out = _chosen(section, [row for row in compressed(section) if _errors(row.records[0])])
    if not rows:
        return None
    lines = [
        ProfileLine(name, str(row.setting["method"]), is_n_of_m(row), _mean([_errors(r) for r in row.records]))
        for row, name in zip(rows, names(rows), strict=True)
    ]
    linears = list(dict.fromkeys(linear for line in lines for linear in line.errors))
    return Profile(section.model, linears, lines, left_out)


def _chosen(section: Section, rows: list[Row]) -> tuple[list[Row], str]:
    if len(rows) <= MOST_LINES:
        return rows, ""
    columns = drawn_columns(section)

    def rank(row: Row) -> tuple[int, float]:
        for place, column in enumerate(columns):
            if column in row.measured:
                sign = 1 if column.metric in LOWER_IS_BETTER else -1
                return place, sign * row.measured[column].value
        return len(columns), 0.0

    by_rank = sorted(of_most_sequences(rows), key=rank)
    best = {str(row.setting["method"]): row for row in reversed(by_rank)}.values()
    first = [row for row in by_rank if any(row is other for other in best)]
    others = [row for row in by_rank if not any(row is other for other in first)]
    kept = (first + others)[:MOST_LINES]
    return (
        [row for row in rows if any(row is other for other in kept)],
        f"Left out: {len(rows) - len(kept)} of {len(rows)} rows; the best of each method is drawn first.",
    )


def _errors(record: RunRecord) -> Errors:
    found: Errors = {}
    for linear in record.compression.linears:
        if match := IN_BLOCK.search(linear.name):
            found.setdefault(match[2], {})[int(match[1])] = linear.relative_error
    return found


def _mean(seeds: list[Errors]) -> Errors:
    return {
        linear: {block: float(np.mean([seed[linear][block] for seed in seeds])) for block in blocks}
        for linear, blocks in seeds[0].items()
    }
