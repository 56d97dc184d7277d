"""Published values beside measured ones, and in words where their protocols differ."""

from collections import Counter
from dataclasses import dataclass

from nowag_exp.published import Counterpart, Published, counterparts
from nowag_exp.records.wide import Row, Section, heading, precision, value_text
from nowag_exp.report.rows import names


@dataclass(frozen=True)
class Beside:
    """One measured value and one published value.

    Attributes:
        name: of the row.
        metric: with its protocol.
        ours: as the tables show it.
        published: in the same unit, with as many decimals.
        difference: ours less published, ± our standard error.
        source: paper and table.
        differences: of the protocols; none if the values are comparable.
    """

    model: str
    name: str
    metric: str
    ours: str
    published: str
    difference: str
    source: str
    differences: tuple[str, ...]


def beside(sections: list[Section], rows: list[Published]) -> list[Beside]:
    """All pairs that are of one model, method, setting and data set; comparable ones first.

    Args:
        sections: of the wide tables.
        rows: published values.
    """
    by_subject: dict[tuple[str, str], list[Published]] = {}
    for row in rows:
        by_subject.setdefault((row.model, row.method), []).append(row)
    found = [
        line
        for section in sections
        for row, name in zip(section.rows, names(section.rows), strict=True)
        for line in _of_row(section.model, row, name, by_subject)
    ]
    return sorted(found, key=lambda line: bool(line.differences))


def _of_row(model: str, row: Row, name: str, published: dict[tuple[str, str], list[Published]]) -> list[Beside]:
    labels = row.records[0].labels
    candidates = published.get((labels.model, labels.method), [])
    found = []
    for column, measured in row.measured.items():
        scale, decimals = precision(column.metric, measured.value)
        for other in counterparts(measured.records[0], measured.metrics[0], candidates):
            error = "" if measured.standard_error is None else f" ± {scale * measured.standard_error:.{decimals}f}"
            found.append(
                Beside(
                    model,
                    name,
                    " ".join(filter(None, [column.suite, heading(column, Counter())])),
                    value_text(column.metric, measured),
                    f"{scale * other.value:.{decimals}f}",
                    f"{scale * (measured.value - other.value):+.{decimals}f}{error}",
                    _source(other),
                    other.differences,
                )
            )
    return found


def _source(counterpart: Counterpart) -> str:
    return f"{counterpart.row.paper}, {counterpart.row.table}"
