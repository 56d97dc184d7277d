"""The irregularity ledger: whatever was not the textbook path, kept with the record and shown in the table."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "dead_columns",
    "tied_scores",
    "empty_codewords",
    "raised_dampening",
    "overlapping_windows",
    "byte_order_marks",
    "truncated_items",
    "halved_batches",
    "corrupted_store_entry",
    "tracking_failed",
]


PASSING = ("halved_batches", "corrupted_store_entry")
"""Kinds that a run which goes on after an interruption need not meet again."""


@dataclass(frozen=True)
class Irregularity:
    """One kind of irregularity at one place.

    Attributes:
        kind: ``dead_columns``: inputs that were 0 on every calibration token; ``tied_scores``: weights removed though
            one of equal score was kept, so their position decided; ``empty_codewords``: codewords that no subvector
            was nearest to; ``raised_dampening``: a Hessian was not positive definite with the dampening asked for;
            ``overlapping_windows``: calibration sequences or evaluation windows that share text;
            ``byte_order_marks``: files of a text opened with one, which is no text and was left out;
            ``truncated_items``: zero-shot requests too long for the model, which lost the beginning of their context;
            ``halved_batches``: batches of ``runtime.batch_tokens`` did not fit into memory and were computed in parts;
            ``corrupted_store_entry``: a stored stage was damaged, so it was computed again; ``tracking_failed``: the
            record did not reach a tracker, and the entry goes when it has.
        where: the linear, site, file or tracker.
        detail: in words.
        count: how many.
    """

    kind: Kind
    where: str
    detail: str
    count: int


class Ledger:
    """Collects irregularities in the order in which they happen."""

    def __init__(self) -> None:
        self.entries: list[Irregularity] = []

    def add(self, kind: Kind, where: str, detail: str, count: int = 1) -> None:
        """Write one down."""
        assert kind in get_args(Kind)
        self.entries.append(Irregularity(kind, where, detail, count))


def summary(entries: list[Irregularity]) -> str:
    """``dead_columns:3 overlapping_sequences:2``; empty if all was regular."""
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.kind] = counts.get(entry.kind, 0) + entry.count
    return " ".join(f"{kind}:{count}" for kind, count in sorted(counts.items()))
