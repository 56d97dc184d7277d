"""Tables of the page: cells are the text of the wide tables, and columns of numbers are known as such."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nowag_exp.records.wide import Cell

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?%?( ± \d+(\.\d+)?)?( \([^()]*\))*( †)?")
"""``50.57 ± 3.85 (s 0.42)``: sorted by the number it begins with."""

MISSING = "-"
LONG = 24


@dataclass(frozen=True)
class Heading:
    """Of a column.

    Attributes:
        is_number: whether its cells are sorted as numbers; the script looks at nothing else.
        is_long: whether cells need several lines on a phone, and so a width that keeps these few.
    """

    text: str
    is_number: bool
    is_long: bool


@dataclass(frozen=True)
class Table:
    """One table; ``key`` is unique in the page."""

    key: str
    caption: str
    headings: list[Heading]
    lines: list[list[Cell]]


def table(key: str, caption: str, headings: Sequence[str], lines: Sequence[Sequence[Cell | str]]) -> Table:
    """A table of cells, or of texts."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in line] for line in lines]
    columns = zip(*cells, strict=True) if cells else [()] * len(headings)
    return Table(
        key,
        caption,
        [
            Heading(text, _are_numbers(column), _are_long(column))
            for text, column in zip(headings, columns, strict=True)
        ],
        cells,
    )


def _are_numbers(column: Sequence[Cell]) -> bool:
    texts = [cell.text for cell in column if cell.text != MISSING]
    return bool(texts) and all(NUMBER.fullmatch(text) for text in texts)


def _are_long(column: Sequence[Cell]) -> bool:
    return any(len(cell.text) > LONG for cell in column) and not _are_numbers(column)
