"""One colour and one marker a method, the same in every figure, on light and on dark ground.

Figures are drawn with the light colours; in the page each of them becomes a CSS variable. Every method's colour has a
contrast of 3 or more with its ground, and methods of similar colours have other markers.
"""

from dataclasses import dataclass

from nowag_exp.layout import groups
from nowag_exp.records.tables import DENSE

GROUND = {
    "surface": ("#ffffff", "#15181d"),
    "ink": ("#1b1f24", "#e8eaed"),
    "muted": ("#59616b", "#a4adb8"),
    "grid": ("#dfe3e8", "#343a43"),
    "band": ("#e9ecf0", "#272c34"),
}
"""Light and dark colours of what is no method, by CSS variable; ``band`` is that of the dense model's error."""

COLOURS = (
    ("#00795a", "#35c79c"),
    ("#5b50c0", "#a9a0fa"),
    ("#4b5b69", "#a7b7c4"),
    ("#0b6cb0", "#5cb3ee"),
    ("#c9500a", "#ff914f"),
    ("#8c1d40", "#f2849f"),
    ("#a83f8e", "#e58fcf"),
    ("#946800", "#e2b12c"),
)
PARTS = (("#26547c", "#8fc1f0"), ("#c9781e", "#f0ac5c"), ("#a9b4c0", "#5d6875"), ("#d5dbe2", "#3d4650"))
"""Of the parts of a cost; lightness alone tells them apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">")


@dataclass(frozen=True)
class Style:
    """Of a method: ``colour`` on light ground, and ``marker`` as matplotlib calls it."""

    colour: str
    marker: str


def styles(methods: list[str]) -> dict[str, Style]:
    """A style a method: those of ``conf/method`` have the same in every report, others follow."""
    known = sorted(set(groups()["method"]) - {DENSE})
    ordered = [*known, *sorted(set(methods) - set(known) - {DENSE})]
    return {
        method: Style(COLOURS[number % len(COLOURS)][0], MARKERS[number % len(MARKERS)])
        for number, method in enumerate(ordered)
    }


def variables() -> dict[str, tuple[str, str]]:
    """CSS variables, each with its light and its dark colour."""
    return {
        **{f"--{name}": pair for name, pair in GROUND.items()},
        **{f"--series-{number}": pair for number, pair in enumerate(COLOURS)},
        **{f"--part-{number}": pair for number, pair in enumerate(PARTS)},
    }
