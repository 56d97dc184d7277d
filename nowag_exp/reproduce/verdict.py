"""Whether a measured value is the published one. The rules and their reasons are in docs/reproduce.md."""

import enum
import math
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student

from nowag_exp.published import Counterpart, Published, counterparts
from nowag_exp.published.mapping import CALIBRATED
from nowag_exp.published.papers import OURS
from nowag_exp.records.pairing import Measured
from nowag_exp.records.record import RunRecord
from nowag_exp.reproduce.traps import likeliest_trap

SAME_CODE = 0.0001
"""Our own rows: other processors sum in another order. Other instruction sets moved perplexity and KL by 3e-7."""

SAME_SHARE = 0.0005
"""Our own rows, of a share of tokens: absolute, four of 8176 tokens."""

DENSE = 0.002
"""Another dtype, other kernels, another tokenizer's code: what is left when nothing is drawn and nothing compressed."""

DRAWN_NOTHING = 0.01
"""Compressed without calibration: near-ties and grids are rounded in another way."""

ONE_DRAW = 0.02
"""Calibrated, each side on sequences of its own: two standard deviations of the difference of two runs."""

FEWEST_SEEDS = 3
"""From this many on, the spread that was measured replaces :data:`ONE_DRAW`."""


class Verdict(enum.Enum):
    """On one published value."""

    AGREES = "agrees"
    GAP = "GAP"
    NOT_COMPARED = "not compared"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Line:
    """A published value, what was measured, and the verdict.

    Attributes:
        measured: over the seeds; ``None`` if it was not run.
        published: in our unit.
        tolerance: within which they agree; ``None`` if they are not compared.
        remarks: the differences between the protocols, the likeliest trap, or why it was not run.
    """

    row: Published
    measured: Measured | None
    published: float
    tolerance: float | None
    verdict: Verdict
    remarks: tuple[str, ...]


def not_run(row: Published, reason: str) -> Line:
    """The line of a value without an experiment, or whose experiment did not end."""
    return Line(row, None, Counterpart(row, ()).value, None, Verdict.NOT_RUN, (reason,))


def judge(row: Published, measured: Measured, all_rows: list[Published]) -> Line:
    """Hold a measured value against a published one.

    Args:
        row: the published value.
        measured: as :func:`measured_as` found it.
        all_rows: where a trap is looked for.
    """
    (published,) = counterparts(measured.records[0], measured.metrics[0], [row])
    if published.differences:
        return Line(row, measured, published.value, None, Verdict.NOT_COMPARED, published.differences)
    within = tolerance(published, measured)
    if abs(measured.value - published.value) <= within:
        return Line(row, measured, published.value, within, Verdict.AGREES, ())
    trap = likeliest_trap(row, measured, all_rows)
    return Line(row, measured, published.value, within, Verdict.GAP, (trap,))


def tolerance(published: Counterpart, measured: Measured) -> float:
    """How far apart two values of one experiment may be."""
    row, n, spread = published.row, len(measured.records), measured.spread
    size = abs(published.value)
    if row.paper == OURS and row.method != "nowag_vq":  # k-means may take another way on another processor.
        return published.rounding + (SAME_SHARE if row.metric == "top1_agreement" else SAME_CODE * size)
    if row.method == "dense":
        return published.rounding + DENSE * size
    if row.method not in CALIBRATED:
        return published.rounding + DRAWN_NOTHING * size
    if spread is None or n < FEWEST_SEEDS:
        return published.rounding + ONE_DRAW * size
    # The 95 % prediction interval of one more draw, which the published value is.
    return published.rounding + DENSE * size + float(student.ppf(0.975, n - 1)) * spread * math.sqrt(1 + 1 / n)


def measured_as(row: Published, records: list[RunRecord], results: Path) -> Measured:
    """The metric of the records, one a seed, that is nearest to a published row by its protocol."""
    nearest = []
    for record in records:
        found = [(counterparts(record, metric, [row]), metric) for metric in record.metrics]
        listed = [(len(one[0].differences), index) for index, (one, _) in enumerate(found) if one]
        nearest.append(found[min(listed)[1]][1])
    return Measured(results, records, nearest)
