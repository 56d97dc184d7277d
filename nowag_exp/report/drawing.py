"""How a figure is set up, scaled and saved: settings, axes, markers, legend. The figures themselves are next door."""

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from nowag_exp.report import axes as scales
from nowag_exp.report.palette import GROUND, Style
from nowag_exp.report.profile import ProfileLine
from nowag_exp.report.rows import Estimate
from nowag_exp.report.series import Line, Point

WIDTH = 3.4
"""Inches."""

LONGEST_LABEL = 46
MARKER = 5.0

LAYER, LARGEST = 0.45, 1.8
"""A marker is larger by the first part of itself for each one that lies on it; none is by more than the second."""

INK, MUTED, GRID, BAND, SURFACE = (GROUND[name][0] for name in ("ink", "muted", "grid", "band", "surface"))
DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)), (0, (8, 2)), (0, (2, 1, 1, 1)))

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # Comes with matplotlib.
    "font.size": 7.5,
    "text.parse_math": False,  # Labels come from records: a $ is a $.
    "text.usetex": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 7.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": MARKER,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.35,
    "hatch.linewidth": 0.5,
    "figure.facecolor": SURFACE,
    "axes.facecolor": SURFACE,
    "svg.fonttype": "none",
    "svg.hashsalt": "nowag_exp",
    "pdf.fonttype": 42,
    "savefig.facecolor": SURFACE,
}

Tips = dict[str, str]
"""What the marks of a figure say when they are pointed at, by their id."""


@dataclass(frozen=True)
class Drawn:
    """A figure in both formats; same input, same bytes."""

    svg: str
    pdf: bytes
    tips: Tips


@contextmanager
def settings() -> Iterator[None]:
    """Our settings alone, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)  # type: ignore[arg-type]
        # The page shows it in a font of the reader's; in a PDF a box stands for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Make a figure of one column with a grid."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    ax = figure.add_subplot()
    ax.grid(visible=True)
    return figure, ax


def scale_x(ax: Axes, low: float, high: float, log: bool, form: str, at: Sequence[float] | None = None) -> None:
    """Set limits, scale and ticks of the horizontal axis."""
    set_scale(ax, "x", low, high, log, form, at)


def scale_y(ax: Axes, values: list[Estimate], dense: Estimate | None) -> None:
    """Set the vertical axis so that values, error bars, spread and dense line are within."""
    ends = [end for value in [*values, *([dense] if dense else [])] for end in (value.low, value.high)]
    ends += [value.value + sign * (value.spread or 0) for value in values for sign in (-1, 1)]
    log = scales.is_log([value.value for value in [*values, *([dense] if dense else [])]])
    positive = [end for end in ends if end > 0] if log else ends
    set_scale(ax, "y", *scales.limits(min(positive), max(positive), log), log, "{}", None)


def set_scale(ax: Axes, axis: str, low: float, high: float, log: bool, form: str, at: Sequence[float] | None) -> None:
    """Limits, scale and ticks with plain labels; matplotlib's own would be mathtext."""
    set_scale, set_limits, side = (
        (ax.set_xscale, ax.set_xlim, ax.xaxis) if axis == "x" else (ax.set_yscale, ax.set_ylim, ax.yaxis)
    )
    places = scales.ticks(low, high, log) if at is None else list(at)
    set_scale("log" if log else "linear")
    set_limits(low, high)
    side.set_major_locator(FixedLocator(places))
    side.set_major_formatter(FixedFormatter([form.format(scales.tick_label(place)) for place in places]))
    side.set_minor_locator(NullLocator())


def whole(low: int, high: int) -> list[float]:
    """Ticks at blocks."""
    step = max(1, math.ceil((high - low) / 4 / 5) * 5 if high - low > 8 else math.ceil((high - low) / 4))
    return [float(block) for block in range(low, high + 1) if (block - low) % step == 0]


def dense_line(ax: Axes, dense: Estimate | None) -> tuple[list[Artist], list[str]]:
    """Draw the dense model as a line with a band; return what the legend says of it."""
    if dense is None:
        return [], []
    ax.axhspan(dense.low, dense.high, color=BAND, linewidth=0, zorder=0)
    ax.axhline(dense.value, color=INK, linewidth=0.9, zorder=1)
    return [Line2D([], [], color=INK, linewidth=0.9)], [f"dense {dense.text}"]


def mark(ax: Axes, point: Point, style: Style, gid: str, size: float = MARKER) -> None:
    """Draw a marker at its value, with its error bar, thick where the seeds spread."""
    y = point.y
    bars: ErrorbarContainer = ax.errorbar(
        [point.x],
        [y.value],
        yerr=[[max(0.0, y.value - y.low)], [max(0.0, y.high - y.value)]],
        fmt=style.marker,
        color=style.colour,
        markerfacecolor=SURFACE if point.n_of_m else style.colour,
        # A filled marker has an edge of the ground, so that it stands off from one that it lies on.
        markeredgecolor=style.colour if point.n_of_m else SURFACE,
        markeredgewidth=1.0 if point.n_of_m else 0.5,
        markersize=size,
        elinewidth=0.8,
        capsize=1.6,
        capthick=0.8,
        zorder=4,
    )
    bars.lines[0].set_gid(gid)
    if y.spread:
        ax.vlines(
            point.x,
            y.value - y.spread,
            y.value + y.spread,
            color=style.colour,
            linewidth=2.4,
            alpha=0.55,
            zorder=3.5,
        )


def sizes(ax: Axes, points: list[Point]) -> list[float]:
    """Return the diameter of each marker in points: those under others are larger, as rings."""
    left, right, bottom, top = (
        math.log(end) if log else end
        for ends, log in ((ax.get_xlim(), ax.get_xscale() == "log"), (ax.get_ylim(), ax.get_yscale() == "log"))
        for end in ends
    )

    def place(point: Point) -> tuple[float, float]:
        x = math.log(point.x) if ax.get_xscale() == "log" else point.x
        y = math.log(point.y.value) if ax.get_yscale() == "log" else point.y.value
        # The axes are about 2.7 by 1.7 inches large.
        return 72 * 2.7 * (x - left) / (right - left), 72 * 1.7 * (y - bottom) / (top - bottom)

    layers = scales.layers([place(point) for point in points], MARKER)
    step = min(LAYER, LARGEST / max(1, *layers))
    return [MARKER * (1 + step * layer) for layer in layers]


def dashes(lines: Sequence[Line] | Sequence[ProfileLine]) -> list[Any]:
    """Lines of one method differ in their dashes."""
    seen: dict[str, int] = {}
    found = []
    for line in lines:
        number = seen.get(line.method, 0)
        seen[line.method] = number + 1
        found.append(DASHES[number % len(DASHES)])
    return found


def key(style: Style, hollow: bool, dash: Any = None) -> Line2D:
    """Return the sign of a method in the legend."""
    return Line2D(
        [],
        [],
        color=style.colour,
        marker=style.marker,
        markersize=MARKER,
        markerfacecolor=SURFACE if hollow else style.colour,
        linestyle="none" if dash is None else dash,
    )


def legend(figure: Figure, handles: list[Artist], labels: list[str], free: Axes | None = None) -> None:
    """In a panel that is free, or below the axes in as many columns as fit."""
    labels = [shortened(label, LONGEST_LABEL) for label in labels]
    blank = [" "] * len(labels)  # matplotlib takes a label that begins with _ for a hidden one.
    if free is not None:
        legend = free.legend(handles, blank, loc="center left", borderaxespad=0)
    else:
        widest = max(map(len, labels))
        columns = max(1, min(4, len(labels), int(figure.get_figwidth() / WIDTH * 60 / (widest + 7))))
        legend = figure.legend(handles, blank, loc="outside lower center", ncols=columns)
        figure.set_figheight(figure.get_figheight() + 0.155 * math.ceil(len(labels) / columns))
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def shortened(text: str, longest: int) -> str:
    """Cut a text to a length."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def wrapped(name: str, longest: int) -> str:
    """In two lines at most."""
    first, *others = textwrap.wrap(name, longest)
    return "\n".join([first, *([shortened(" ".join(others), longest)] if others else [])])


def drawn(figure: Figure, tips: Tips) -> Drawn:
    """Save a figure in both formats."""
    svg, pdf = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.set_layout_engine("none")  # It has been laid out; once more would take as long again.
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return Drawn(svg.getvalue(), pdf.getvalue(), tips)
