"""Methods against models: what each loses of the dense model."""

import math
from collections import Counter
from dataclasses import dataclass

from nowag_exp.records.pairing import LOWER_IS_BETTER
from nowag_exp.records.wide import Column, Row, Section
from nowag_exp.report.rows import compressed, dense_estimate, drawn_columns, estimate, names, of_most_sequences, titles

MOST_LINES = 30


@dataclass(frozen=True)
class HeatCell:
    """A method on a model.

    Attributes:
        text: the value alone.
        loss: nats of log-perplexity above the dense model, or points of accuracy below it; ``None`` without dense.
    """

    text: str
    loss: float | None


@dataclass(frozen=True)
class HeatMap:
    """One metric under one protocol.

    Attributes:
        lines: names of the rows.
        methods: of the rows.
        models: names of the columns.
        cells: by row and column; ``None`` where nothing was measured.
        left_out: in words; empty if all rows are there.
    """

    metric: str
    title: str
    lines: list[str]
    methods: list[str]
    models: list[str]
    cells: list[list[HeatCell | None]]
    left_out: str


def heat_maps(sections: list[Section]) -> list[HeatMap]:
    """One for each metric and protocol that two models or more have on compressed rows.

    Models have tokenizers of their own, so their token hashes differ; where one model has a protocol on several tokens,
    those of most rows count. Of rows that differ in calibration sequences alone, the one with the most is there.
    """
    found = []
    for metric, protocol, title in _shared_metrics(sections):
        chosen = [_usual(section, metric, protocol) for section in sections]
        pairs = [(section, column) for section, column in zip(sections, chosen, strict=True) if column is not None]
        if len(pairs) > 1:
            found.append(_heat_map(metric, title, pairs))
    return found


def _shared_metrics(sections: list[Section]) -> list[tuple[str, str, str]]:
    found: dict[tuple[str, str], str] = {}
    for section in sections:
        columns = drawn_columns(section)
        for column in columns:
            (title,) = titles([column])
            found.setdefault((column.metric, column.protocol), title)
    return [(*key, title) for key, title in found.items()]


def _usual(section: Section, metric: str, protocol: str) -> Column | None:
    counts = Counter(
        column
        for row in compressed(section)
        for column in row.measured
        if (column.metric, column.protocol) == (metric, protocol)
    )
    return counts.most_common(1)[0][0] if counts else None


def _heat_map(metric: str, title: str, pairs: list[tuple[Section, Column]]) -> HeatMap:
    rows = [
        of_most_sequences([row for row in compressed(section) if column in row.measured]) for section, column in pairs
    ]
    labels = names([row for part in rows for row in part])
    cells: dict[str, dict[int, HeatCell]] = {}
    methods: dict[str, str] = {}
    label = iter(labels)
    for number, ((section, column), part) in enumerate(zip(pairs, rows, strict=True)):
        dense = dense_estimate(section, column)
        for row in part:
            name = next(label)
            methods[name] = str(row.setting["method"])
            cells.setdefault(name, {})[number] = _cell(row, column, None if dense is None else dense.value)
    by_models = sorted(cells, key=lambda name: -len(cells[name]))[:MOST_LINES]
    kept = sorted([name for name in cells if name in by_models], key=lambda name: methods[name])
    n = len(cells) - len(kept)
    return HeatMap(
        metric,
        title,
        kept,
        [methods[name] for name in kept],
        [section.model for section, _ in pairs],
        [[cells[name].get(number) for number in range(len(pairs))] for name in kept],
        f"Left out: {n} rows of the fewest models." if n else "",
    )


def _cell(row: Row, column: Column, dense: float | None) -> HeatCell:
    found = estimate(column.metric, row.measured[column])
    text = found.text.split(" ")[0]
    if dense is None:
        return HeatCell(text, None)
    if column.metric == "perplexity":
        return HeatCell(text, math.log(found.value / dense))
    return HeatCell(text, (found.value - dense) * (1 if column.metric in LOWER_IS_BETTER else -1))
