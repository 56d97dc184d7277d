"""Where a gap may come from: a published value that ours does agree with, and what is different about it."""

from nowag_exp.ledger import summary
from nowag_exp.published import Published
from nowag_exp.published.mapping import Choice, calibration_of, evaluation_of, method_of
from nowag_exp.published.papers import OURS
from nowag_exp.records.pairing import Measured

CLOSE = 0.002
"""Relative: tighter than a verdict, since many values are searched."""

WORDS = 1.27
"""``log`` of lm-eval's per-word perplexity on wikitext over that of the per-token one: ``log 8.7 / log 5.5``."""

MOST_ASPECTS = 2
"""Values that differ in more than this agree by chance."""


def likeliest_trap(target: Published, measured: Measured, rows: list[Published]) -> str:
    """One sentence: what to check first.

    Args:
        target: the published value that ours is not.
        measured: ours.
        rows: all published values; of those that ours agrees with, the one that differs from the target in the fewest
            aspects is named.
    """
    if target.paper == OURS:
        return _of_our_own(target, measured)
    candidates = [
        (len(aspects), abs(row.value - _percent(row, measured.value)), row, aspects)
        for row in rows
        if (row.model, row.metric) == (target.model, target.metric)
        if abs(row.value - _percent(row, measured.value)) <= row.rounding + CLOSE * abs(row.value)
        if (aspects := _aspects(target, row)) is not None and len(aspects) <= MOST_ASPECTS
    ]
    if candidates:
        *_, row, aspects = min(candidates, key=lambda found: found[:2])
        where = f"{row.paper}, {row.table}"
        if not aspects:
            return f"ours agrees with {row.value:g} of {where}, which reports the same: the sources differ"
        return f"ours agrees with {_described(row)} ({row.value:g}; {where}): check {', '.join(aspects)}"
    if target.metric == "perplexity" and abs(measured.value**WORDS - target.value) <= 0.03 * target.value:
        return "the published value is ours per word, as lm-eval's wikitext is, if it is of this text"
    if irregular := summary(measured.records[0].irregularities):
        return f"no other published value is ours; the run was not the textbook path: {irregular}"
    return "no other published value is ours; look at the dense row first (context, windows, BOS), then at calibration"


def _of_our_own(target: Published, measured: Measured) -> str:
    now = measured.records[0].provenance
    versions = f"nowag_exp {now.get('nowag_exp')}, torch {now.get('libraries', {}).get('torch')}"
    return f"numerics changed between {target.source} and here ({versions})"


def _percent(row: Published, value: float) -> float:
    return 100 * value if row.metric == "accuracy" else value


def _aspects(target: Published, row: Published) -> list[str] | None:
    """Config keys in which two published values differ; ``None`` if a row is of something not measured here."""
    ours, theirs = evaluation_of(target), evaluation_of(row)
    if ours is None or theirs is None or (row.metric == "accuracy" and row.task != target.task):
        return None
    found = ["fine-tuning"] if target.finetuned != row.finetuned else []
    found += _changed("evaluation", ours, theirs)
    if target.method != row.method:
        return [*found, "method"]
    found += _changed("method", method_of(target), method_of(row))
    ours, theirs = calibration_of(target), calibration_of(row)
    return found if ours is None or theirs is None else found + _changed("calibration", ours, theirs)


def _changed(group: str, a: Choice, b: Choice) -> list[str]:
    """What is different about two choices; the context of an evaluation by its own key."""
    if a.option != b.option:
        return [group]
    prefix = f"{group}.{a.option}" if group == "evaluation" else group
    keys = sorted({*a.settings, *b.settings})
    return [f"{prefix}.{key}" for key in keys if a.settings.get(key) != b.settings.get(key)]


def _described(row: Published) -> str:
    """``the wanda value at 2:4, context 2048``."""
    setting = [] if row.sparsity_pattern == "none" else [row.sparsity_pattern]
    if row.method != "dense" and not setting and row.bits is not None:
        setting = [f"{row.bits:g} bits"]
    place = [row.task, *([f"context {row.context_length}"] if row.context_length else [])]
    return f"the {' '.join([row.method, *setting])} value of {', '.join(place)}"
