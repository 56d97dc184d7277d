"""Draws the figures: one column of a paper wide, which is also the width of a phone."""

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from nowag_exp.report import axes as scales
from nowag_exp.report.costs import PARTS as COST_PARTS
from nowag_exp.report.costs import Costs
from nowag_exp.report.heatmap import HeatCell, HeatMap
from nowag_exp.report.palette import GROUND, Style
from nowag_exp.report.palette import PARTS as PART_COLOURS
from nowag_exp.report.profile import Profile, ProfileLine
from nowag_exp.report.rows import Estimate
from nowag_exp.report.series import Curves, Line, Point, TradeOff

WIDTH = 3.4
"""Inches."""

LONGEST_LABEL = 46
LONGEST_IN_PANEL = 18
MARKER = 5.0
STEP = 6.0
WIDEST_PILE = 36.0
"""Points between markers side by side, and from the first to the last of them."""

NARROWEST = {"bits": 1.0, "sparsity": 20.0}
"""Least range of an axis, so that small differences look small."""

FULL_COLOUR = {"perplexity": (math.log(1.5), math.log(10.0)), "acc": (5.0, 100.0)}
"""Loss of the darkest cell of a heat map: the largest there is, but within these."""

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


def trade_off(data: TradeOff, styles: dict[str, Style]) -> Drawn:
    """Quality against bits or sparsity, with front and dense line."""
    with _settings():
        figure, ax = _figure(2.5)
        tips: Tips = {}
        xs = [point.x for point in data.points]
        log_x = data.axis == "bits" and scales.is_log(xs)
        room = max(0.0, (NARROWEST[data.axis] - max(xs) + min(xs)) / 2)
        ends = (min(xs), max(xs)) if log_x else (min(xs) - room, max(xs) + room)
        _scale_x(ax, *scales.limits(*ends, log_x, 0.12), log_x, "{}%" if data.axis == "sparsity" else "{}")
        _scale_y(ax, [point.y for point in data.points], data.dense)
        handles, labels = _dense_line(ax, data.dense)
        if len(data.front) > 1:
            ax.plot(
                [point.x for point in data.front],
                [point.y.value for point in data.front],
                color=MUTED,
                linewidth=0.9,
                linestyle=(0, (4, 2)),
                drawstyle="steps-post" if data.axis == "bits" else "steps-pre",
                zorder=2,
            )
            handles.append(Line2D([], [], color=MUTED, linewidth=0.9, linestyle=(0, (4, 2))))
            labels.append("Pareto front")
        for number, (point, step) in enumerate(zip(data.points, _steps(ax, data.points), strict=True)):
            offset = ScaledTranslation(step / 72, 0, figure.dpi_scale_trans)
            _mark(ax, point, styles[point.method], f"point-{number}", ax.transData + offset)
            unit = "%" if data.axis == "sparsity" else " bits"
            tips[f"point-{number}"] = f"{point.name}, {scales.tick_label(round(point.x, 2))}{unit}: {point.y.text}"
        for method in dict.fromkeys(point.method for point in data.points):
            handles.append(_key(styles[method], all(p.n_of_m for p in data.points if p.method == method)))
            labels.append(method)
        if len({point.n_of_m for point in data.points}) > 1:
            handles.append(Line2D([], [], color=MUTED, marker="o", linestyle="none", markerfacecolor=SURFACE))
            labels.append("hollow: N:M")
        ax.set_title(data.title)
        ax.set_xlabel("bits per weight, as stored" if data.axis == "bits" else "weights removed")
        _legend(figure, handles, labels)
        return _drawn(figure, tips)


def curves(data: Curves, styles: dict[str, Style]) -> Drawn:
    """Quality against the number of calibration sequences."""
    with _settings():
        figure, ax = _figure(2.5)
        tips: Tips = {}
        points = [point for line in data.lines for point in line.points]
        xs = [point.x for point in points]
        log_x = scales.is_log(xs)
        _scale_x(
            ax, *scales.limits(min(xs), max(xs), log_x), log_x, "{}", sorted(set(xs)) if len(set(xs)) <= 9 else None
        )
        _scale_y(ax, [point.y for point in points], data.dense)
        handles, labels = _dense_line(ax, data.dense)
        dashes = _dashes(data.lines)
        for number, line in enumerate(data.lines):
            style = styles[line.method]
            x, y = [p.x for p in line.points], [p.y.value for p in line.points]
            ax.plot(x, y, color=style.colour, linestyle=dashes[number], zorder=3)
            for index, point in enumerate(line.points):
                _mark(ax, point, style, f"point-{number}-{index}", ax.transData)
                tips[f"point-{number}-{index}"] = f"{line.name}, {point.x:g} sequences: {point.y.text}"
            handles.append(_key(style, line.n_of_m, dashes[number]))
            labels.append(line.name)
        ax.set_title(data.title)
        ax.set_xlabel("calibration sequences")
        _legend(figure, handles, labels)
        return _drawn(figure, tips)


def profile(data: Profile, styles: dict[str, Style]) -> Drawn:
    """Relative error of each linear against its block, a panel a linear."""
    with _settings():
        n_rows = math.ceil(len(data.linears) / 2)
        figure = Figure(figsize=(WIDTH, 0.4 + 1.05 * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, 2, sharex=True, sharey=True, squeeze=False)
        every = [e for line in data.lines for blocks in line.errors.values() for e in blocks.values()]
        blocks = [block for line in data.lines for errors in line.errors.values() for block in errors]
        positive = [error for error in every if error > 0] or [1.0]
        log = scales.is_log(positive) and len(positive) == len(every)
        low, high = scales.limits(min(positive), max(positive), True) if log else (0.0, 1.08 * max(positive))
        dashes = _dashes(data.lines)
        tips: Tips = {}
        for panel, ax in enumerate(grid.flat):
            if panel >= len(data.linears):
                ax.set_axis_off()
                continue
            linear = data.linears[panel]
            _scale_x(ax, min(blocks) - 0.5, max(blocks) + 0.5, False, "{}", _whole(min(blocks), max(blocks)))
            _set_scale(ax, "y", low, high, log, "{}", None)
            for number, line in enumerate(data.lines):
                errors = sorted(line.errors.get(linear, {}).items())
                if errors:
                    _profile_line(ax, line, errors, styles[line.method], dashes[number], f"line-{panel}-{number}")
                    mean = sum(error for _, error in errors) / len(errors)
                    tips[f"line-{panel}-{number}"] = f"{line.name}, {linear}: mean {mean:.3f}"
            ax.set_title(linear)
            ax.tick_params(labelbottom=panel + 2 >= len(data.linears))
        grid[-1, 0].set_xlabel("block")
        handles: list[Artist] = [
            _key(styles[line.method], line.n_of_m, dash) for line, dash in zip(data.lines, dashes, strict=True)
        ]
        labels = [line.name for line in data.lines]
        free = grid.flat[-1] if len(data.linears) % 2 and max(map(len, labels)) <= LONGEST_IN_PANEL else None
        _legend(figure, handles, labels, free)
        return _drawn(figure, tips)


def heat_map(data: HeatMap) -> Drawn:
    """Methods against models; the colour is the loss, the text the value."""
    with _settings():
        losses = [cell.loss for line in data.cells for cell in line if cell is not None and cell.loss is not None]
        least, largest = FULL_COLOUR[data.metric]
        most = min(max([*losses, least]), largest)
        colours = matplotlib.colormaps["Blues"]
        width = max(WIDTH, 1.5 + 0.5 * len(data.models))
        # Labels of columns are aslant: half their length is their height.
        above = 0.3 + 0.03 * min(24, max(map(len, data.models)))
        figure = Figure(figsize=(width, above + 0.27 * len(data.lines)), layout="constrained")
        ax = figure.add_subplot()
        ax.set_xlim(0, len(data.models))
        ax.set_ylim(len(data.lines), 0)
        tips: Tips = {}
        for y, line in enumerate(data.cells):
            for x, cell in enumerate(line):
                _heat_cell(ax, x, y, cell, colours, most)
                if cell is not None:
                    tips[f"cell-{y}-{x}"] = f"{data.lines[y]}, {data.models[x]}: {cell.text}"
        ax.set_yticks(
            [y + 0.5 for y in range(len(data.lines))], [_wrapped(name, 26) for name in data.lines], fontsize=6.5
        )
        ax.set_xticks([x + 0.5 for x in range(len(data.models))], [_shortened(name, 24) for name in data.models])
        ax.xaxis.tick_top()
        for label in ax.get_xticklabels():
            label.set(rotation=30, rotation_mode="anchor", ha="left", va="bottom")
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        return _drawn(figure, tips)


def cost_bars(data: Costs) -> Drawn:
    """Seconds a stage as bars, beside the highest memory as marks."""
    with _settings():
        figure = Figure(figsize=(WIDTH, 0.85 + 0.25 * len(data.drawn)), layout="constrained")
        bars, marks = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        tips: Tips = {}
        places = range(len(data.drawn))
        left = [0.0] * len(data.drawn)
        for number, part in enumerate(COST_PARTS):
            for y, line in enumerate(data.drawn):
                (bar,) = bars.barh(y, line.seconds[part], left=left[y], height=0.62, color=PART_COLOURS[number][0])
                bar.set_gid(f"bar-{number}-{y}")
                tips[f"bar-{number}-{y}"] = f"{line.name}, {part}: {line.seconds[part]:.1f} s"
                left[y] += line.seconds[part]
        longest = max([*left, 1e-3])
        _scale_x(bars, 0, 1.04 * longest, False, "{}")
        bars.set_yticks(list(places), [_wrapped(line.name, 26) for line in data.drawn], fontsize=6.5)
        bars.set_ylim(len(data.drawn) - 0.5, -0.5)
        bars.set_title("seconds")
        bars.grid(visible=False, axis="y")
        handles: list[Artist] = [Patch(facecolor=light) for light, _ in PART_COLOURS]
        labels = list(COST_PARTS)
        highest = [0.0]
        for name, marker, label in (("gigabytes", "o", "memory"), ("gpu_gigabytes", "^", "GPU memory")):
            known = [(y, getattr(line, name)) for y, line in enumerate(data.drawn) if getattr(line, name) is not None]
            if known:
                marks.plot([x for _, x in known], [y for y, _ in known], marker, color=INK, markersize=4)
                handles.append(Line2D([], [], color=INK, marker=marker, linestyle="none", markersize=4))
                labels.append(label)
                highest += [x for _, x in known]
        highest_drawn = 1.08 * max(highest) or 1.0
        _scale_x(marks, 0, highest_drawn, False, "{}", [0.0, scales.ticks(0, highest_drawn, False)[-1]])
        marks.tick_params(labelleft=False, left=False)
        marks.set_title("peak GB")
        marks.grid(visible=True, axis="y")
        _legend(figure, handles, labels)
        return _drawn(figure, tips)


@contextmanager
def _settings() -> Iterator[None]:
    """Our settings alone, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)  # type: ignore[arg-type]
        # The page shows it in a font of the reader's; in a PDF a box stands for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    ax = figure.add_subplot()
    ax.grid(visible=True)
    return figure, ax


def _scale_x(ax: Axes, low: float, high: float, log: bool, form: str, at: Sequence[float] | None = None) -> None:
    _set_scale(ax, "x", low, high, log, form, at)


def _scale_y(ax: Axes, values: list[Estimate], dense: Estimate | None) -> None:
    ends = [end for value in [*values, *([dense] if dense else [])] for end in (value.low, value.high)]
    ends += [value.value + sign * (value.spread or 0) for value in values for sign in (-1, 1)]
    log = scales.is_log([value.value for value in [*values, *([dense] if dense else [])]])
    positive = [end for end in ends if end > 0] if log else ends
    _set_scale(ax, "y", *scales.limits(min(positive), max(positive), log), log, "{}", None)


def _set_scale(ax: Axes, axis: str, low: float, high: float, log: bool, form: str, at: Sequence[float] | None) -> None:
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


def _whole(low: int, high: int) -> list[float]:
    """Ticks at blocks."""
    step = max(1, math.ceil((high - low) / 4 / 5) * 5 if high - low > 8 else math.ceil((high - low) / 4))
    return [float(block) for block in range(low, high + 1) if (block - low) % step == 0]


def _dense_line(ax: Axes, dense: Estimate | None) -> tuple[list[Artist], list[str]]:
    if dense is None:
        return [], []
    ax.axhspan(dense.low, dense.high, color=BAND, linewidth=0, zorder=0)
    ax.axhline(dense.value, color=INK, linewidth=0.9, zorder=1)
    return [Line2D([], [], color=INK, linewidth=0.9)], [f"dense {dense.text}"]


def _mark(ax: Axes, point: Point, style: Style, gid: str, transform: Any) -> None:
    """A marker with its error bar, thick where the seeds spread."""
    y = point.y
    bars: ErrorbarContainer = ax.errorbar(
        [point.x],
        [y.value],
        yerr=[[max(0.0, y.value - y.low)], [max(0.0, y.high - y.value)]],
        fmt=style.marker,
        color=style.colour,
        markerfacecolor=SURFACE if point.n_of_m else style.colour,
        markeredgecolor=style.colour,
        markeredgewidth=1.0,
        elinewidth=0.8,
        capsize=1.6,
        capthick=0.8,
        transform=transform,
        zorder=4,
    )
    bars.lines[0].set_gid(gid)
    if y.spread:
        ax.vlines(
            point.x, y.value - y.spread, y.value + y.spread, color=style.colour, linewidth=2.4, alpha=0.55,
            transform=transform, zorder=3.5,
        )  # fmt: skip


def _steps(ax: Axes, points: list[Point]) -> list[float]:
    """How many points to the side each marker goes so that none hides another."""

    def share(value: float, low: float, high: float, log: bool) -> float:
        if log:
            value, low, high = (math.log(max(number, 1e-300)) for number in (value, low, high))
        return (value - low) / (high - low)

    log_x, log_y = ax.get_xscale() == "log", ax.get_yscale() == "log"
    half = 0.5 * MARKER / (72 * 1.7)  # The axes are about 1.7 inches high.
    places = [share(point.x, *ax.get_xlim(), log_x) for point in points]
    ranges = [
        (
            share(min(point.y.low, point.y.value), *ax.get_ylim(), log_y) - half,
            share(max(point.y.high, point.y.value), *ax.get_ylim(), log_y) + half,
        )
        for point in points
    ]
    steps = scales.side_by_side(places, ranges, near=0.012)
    return [step * min(STEP, WIDEST_PILE / (2 * max(map(abs, steps)) or 1)) for step in steps]


def _dashes(lines: Sequence[Line] | Sequence[ProfileLine]) -> list[Any]:
    """Lines of one method differ in their dashes."""
    seen: dict[str, int] = {}
    found = []
    for line in lines:
        number = seen.get(line.method, 0)
        seen[line.method] = number + 1
        found.append(DASHES[number % len(DASHES)])
    return found


def _profile_line(
    ax: Axes, line: ProfileLine, errors: list[tuple[int, float]], style: Style, dash: Any, gid: str
) -> None:
    (drawn,) = ax.plot(
        [block for block, _ in errors],
        [error for _, error in errors],
        color=style.colour,
        linestyle=dash,
        linewidth=0.9,
        marker=style.marker,
        markersize=3,
        markevery=max(1, len(errors) // 5),
        markerfacecolor=SURFACE if line.n_of_m else style.colour,
        markeredgewidth=0.8,
    )
    drawn.set_gid(gid)


def _heat_cell(
    ax: Axes, x: int, y: int, cell: HeatCell | None, colours: Callable[[float], tuple[float, ...]], most: float
) -> None:
    if cell is None or cell.loss is None:
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=BAND, edgecolor=SURFACE, linewidth=1))
        ax.text(x + 0.5, y + 0.5, cell.text if cell else "-", ha="center", va="center", fontsize=6.5)
        return
    red, green, blue, *_ = colours(0.06 + 0.94 * min(1.0, max(0.0, cell.loss / most)))
    patch = Rectangle((x, y), 1, 1, facecolor=(red, green, blue), edgecolor=SURFACE, linewidth=1)
    patch.set_gid(f"cell-{y}-{x}")
    ax.add_patch(patch)
    is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.45
    # Not the colours of the page: the ground of a cell is the same on light and on dark.
    ax.text(
        x + 0.5, y + 0.5, cell.text, ha="center", va="center", fontsize=6.5, color="#0d0d0d" if is_light else "#fdfdfd"
    )


def _key(style: Style, hollow: bool, dash: Any = None) -> Line2D:
    return Line2D(
        [],
        [],
        color=style.colour,
        marker=style.marker,
        markersize=MARKER,
        markerfacecolor=SURFACE if hollow else style.colour,
        linestyle="none" if dash is None else dash,
    )


def _legend(figure: Figure, handles: list[Artist], labels: list[str], free: Axes | None = None) -> None:
    """In a panel that is free, or below the axes in as many columns as fit."""
    labels = [_shortened(label, LONGEST_LABEL) for label in labels]
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


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _wrapped(name: str, longest: int) -> str:
    """In two lines at most."""
    first, *others = textwrap.wrap(name, longest)
    return "\n".join([first, *([_shortened(" ".join(others), longest)] if others else [])])


def _drawn(figure: Figure, tips: Tips) -> Drawn:
    svg, pdf = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.set_layout_engine("none")  # It has been laid out; once more would take as long again.
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return Drawn(svg.getvalue(), pdf.getvalue(), tips)
