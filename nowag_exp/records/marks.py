"""Which rows of a table are best of their size, and what that may be said of: their settings, or these models only."""

from collections.abc import Sequence
from typing import Literal

from nowag_exp.evaluation.significance import LEVEL
from nowag_exp.records.pairing import Measured, is_better, weigh

Mark = Literal["settings", "models"]

COMPARABLE = 1.1
"""Rows are of comparable size if the larger has at most this many times the bits a weight of the smaller."""


def marks(rows: Sequence[Measured | None], bits: Sequence[float]) -> list[Mark | None]:
    """Find the rows of a column that are shown to be better than every other one of comparable size.

    To be better than all of them each test alone must pass, so the level needs no adjustment for their number. A row
    with nothing of comparable size beside it has no mark.

    Args:
        rows: the values of the compressed rows; ``None`` for one that has none.
        bits: a weight, of each row.

    Returns:
        For each row ``settings`` if over seeds as well, ``models`` if some pair has a seed too few to tell.
    """
    return [_mark(row, index, rows, bits) for index, row in enumerate(rows)]


def _mark(own: Measured | None, index: int, rows: Sequence[Measured | None], bits: Sequence[float]) -> Mark | None:
    rivals = [
        other
        for place, other in enumerate(rows)
        if place != index and other is not None and _are_comparable(bits[index], bits[place])
    ]
    if own is None or not rivals or not all(own.better_than(rival) for rival in rivals):
        return None
    claims = [_claim(own, rival) for rival in rivals]
    if any(claim is None for claim in claims):
        return None
    return "models" if "models" in claims else "settings"


def _are_comparable(a: float, b: float) -> bool:
    # As tables show them, so that a reader can check it.
    small, large = sorted((round(a, 2), round(b, 2)))
    return large <= COMPARABLE * small


def _claim(own: Measured, rival: Measured) -> Mark | None:
    """What may be said of one lead."""
    found = weigh(rival, own)
    if found is None:
        return None
    test = found.models if found.settings is None else found.settings
    if test.p_value >= LEVEL or not is_better(own.name, test.value, 0):
        return None
    return "models" if found.settings is None else "settings"
