"""Rows of the wide tables as a figure needs them: a name each, and estimates with the ends of their error bars."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nowag_exp.records.pairing import MEAN, Measured
from nowag_exp.records.tables import DENSE
from nowag_exp.records.wide import PERCENT, Column, Row, Section, heading, precision, setting_text, value_text

TELLING_APART = {
    "propagate": "{} activations",
    "calibration": "{}",
    "n_sequences": "{} sequences",
    "context_length": "context {}",
}
"""Columns that a row's name takes on where method and settings do not do, in this order."""


@dataclass(frozen=True)
class Estimate:
    """A value as it is drawn: accuracies in percent.

    Attributes:
        value: the mean over seeds.
        low: one standard error below it; of perplexity, whose logarithm has the error, one factor below it.
        high: likewise above.
        spread: standard deviation over seeds; ``None`` for one.
        text: as the tables show it.
    """

    value: float
    low: float
    high: float
    spread: float | None
    text: str


def estimate(metric: str, measured: Measured) -> Estimate:
    """What a figure needs of a measured metric."""
    scale, _ = precision(metric, measured.value)
    value, error = scale * measured.value, scale * (measured.standard_error or 0.0)
    if metric == "perplexity":
        factor = math.exp(error / value)
        low, high = value / factor, value * factor
    else:
        low, high = value - error, value + error
    spread = None if measured.spread is None else scale * measured.spread
    return Estimate(value, low, high, spread, value_text(metric, measured))


def names(rows: list[Row]) -> list[str]:
    """``wanda 2:4``, with what else it takes to tell the rows apart: ``wanda 2:4, compressed activations``."""
    found = [[" ".join([str(row.setting["method"]), *_known(row.setting["settings"])])] for row in rows]
    for column in TELLING_APART:
        meanings: dict[tuple[str, ...], set[str]] = {}
        texts = [setting_text(column, row.setting[column]) for row in rows]
        keys = [tuple(parts) for parts in found]
        for key, text in zip(keys, texts, strict=True):
            meanings.setdefault(key, set()).add(text)
        for key, text, parts in zip(keys, texts, found, strict=True):
            words = TELLING_APART[column].format(text)
            if len(meanings[key]) > 1 and text != "-":
                parts.append("1 sequence" if words == "1 sequences" else words)
    return [", ".join(parts) for parts in found]


def of_most_sequences(rows: list[Row]) -> list[Row]:
    """Rows that differ in nothing but the number of calibration sequences as one: with the most of them."""
    most: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(str(row.setting[name]) for name in ("method", "settings", "propagate", "calibration"))
        if key not in most or _sequences(row) > _sequences(most[key]):
            most[key] = row
    return [row for row in rows if any(row is other for other in most.values())]


def _sequences(row: Row) -> int:
    value = row.setting["n_sequences"]
    return 0 if pd.isna(value) else int(value)


def is_dense(row: Row) -> bool:
    """Whether the row is of the model as it came."""
    return bool(row.setting["method"] == DENSE)


def is_n_of_m(row: Row) -> bool:
    """Whether its weights were removed in an N:M pattern."""
    pattern = row.records[0].identity["method"].get("pattern")
    return isinstance(pattern, str) and re.fullmatch(r"\d+:\d+", pattern) is not None


def compressed(section: Section) -> list[Row]:
    """All rows but the dense ones."""
    return [row for row in section.rows if not is_dense(row)]


def dense_estimate(section: Section, column: Column) -> Estimate | None:
    """Of the dense model, if it was measured on the same tokens."""
    found = [row.measured[column] for row in section.rows if is_dense(row) and column in row.measured]
    return estimate(column.metric, found[0]) if found else None


def drawn_columns(section: Section) -> list[Column]:
    """Metrics that have figures: perplexities, and of each suite the mean accuracy, or that of its only task."""
    columns = list(dict.fromkeys(column for row in section.rows for column in row.measured))
    accuracies = [column for column in columns if column.metric == "acc"]
    averaged = {column.suite for column in accuracies if column.task == MEAN}
    found = [column for column in columns if column.metric == "perplexity"]
    found += [column for column in accuracies if column.task == MEAN or column.suite not in averaged]
    return sorted(found, key=lambda column: (column.metric != "perplexity", column.protocol, column.token_hash or ""))


def titles(columns: list[Column]) -> list[str]:
    """``perplexity wiki_sample@512``, ``mean accuracy paper_zero_shot, %``; with token hashes where they differ."""
    several = Counter((column.metric, column.protocol) for column in columns)
    return [_title(column, several) for column in columns]


def _title(column: Column, several: Counter[tuple[str, str]]) -> str:
    if column.metric not in PERCENT:
        return heading(column, several)
    of_task = "mean accuracy" if column.task == MEAN else f"accuracy {column.task}"
    hashed = f" #{(column.token_hash or '')[:8]}" if several[column.metric, column.protocol] > 1 else ""
    return f"{of_task} {column.suite}{hashed}, %"


def _known(value: Any) -> list[str]:
    return [] if pd.isna(value) else [str(value)]
