"""An explanation as text: what is likeliest to matter first, the conclusion last."""

from collections.abc import Sequence

from tabulate import tabulate

from nowag_exp.explain.differences import Change, Explanation, LedgerChange, listed, shown
from nowag_exp.records.comparison import describe, render_claims

MOST_PLACES = 3


def render_explanation(found: Explanation) -> str:
    """All but the conclusion, as text that ends in a line break."""
    sections = [
        ("settings", table(found.settings)),
        ("data (sha256 or commit)", table(found.data)),
        ("versions of our code", table(found.our_versions)),
        ("libraries, commit and machine", table(found.provenance)),
        ("irregularities", "\n".join(line for change in found.ledger for line in _ledger(change))),
        ("compression", table(found.compression)),
        ("linears whose relative error differs most", table(found.linears)),
    ]
    shown_sections = [f"{title}\n{_indented(text)}" for title, text in sections if text]
    equal = [title for title, text in sections if not text]
    if equal:
        shown_sections.append(f"the same in both: {', '.join(equal)}")
    if found.no_number:
        keys = ", ".join(change.key for change in found.no_number)
        shown_sections.append(f"differ, but change no number by themselves: {keys}")
    for part, one_sided in found.one_sided.items():
        shown_sections.append(f"only one {part} has these: {listed(one_sided, most=len(one_sided))}")
    numbers = render_claims(found.a, found.b, found.comparison) if found.comparison else "\n".join(found.left_out)
    heading = f"A: {describe(found.a)}\nB: {describe(found.b)}"
    return "\n\n".join([heading, *shown_sections, f"numbers\n{_indented(numbers)}"]) + "\n"


def table(found: Sequence[Change]) -> str:
    """Key, A and B in columns; empty for no change."""
    if not found:
        return ""
    rows = [[change.key, shown(change.a), shown(change.b)] for change in found]
    return tabulate(rows, headers=["", "A", "B"], tablefmt="plain", disable_numparse=True)


def _ledger(change: LedgerChange) -> list[str]:
    counts = [f"{count.key} ({count.a}, {count.b})" for count in change.counts]
    parts = (("only in A", change.only_a), ("only in B", change.only_b), ("in other numbers", counts))
    return [f"{change.kind} {where}: {_some(places)}" for where, places in parts if places]


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
    return ", ".join(places[:MOST_PLACES]) + more


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
