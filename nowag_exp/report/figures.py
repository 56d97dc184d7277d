"""Draws the figures: one column of a paper wide, which is also the width of a phone."""

import math
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from nowag_exp.report import axes as scales
from nowag_exp.report import drawing
from nowag_exp.report.costs import PARTS as COST_PARTS
from nowag_exp.report.costs import Costs
from nowag_exp.report.drawing import BAND, INK, MUTED, SURFACE, WIDTH, Drawn, Tips
from nowag_exp.report.heatmap import HeatCell, HeatMap
from nowag_exp.report.palette import PARTS as PART_COLOURS
from nowag_exp.report.palette import Style
from nowag_exp.report.profile import Profile, ProfileLine
from nowag_exp.report.series import Curves, TradeOff

LONGEST_IN_PANEL = 18

NARROWEST = {"bits": 1.0, "sparsity": 20.0}
"""Least range of an axis, so that small differences look small."""

FULL_COLOUR = {"perplexity": (math.log(1.5), math.log(10.0)), "acc": (5.0, 100.0)}
"""Loss of the darkest cell of a heat map: the largest there is, but within these."""


def trade_off(data: TradeOff, styles: dict[str, Style]) -> Drawn:
    """Quality against bits or sparsity, with front and dense line."""
    with drawing.settings():
        figure, ax = drawing.new_figure(2.5)
        tips: Tips = {}
        xs = [point.x for point in data.points]
        log_x = data.axis == "bits" and scales.is_log(xs)
        room = max(0.0, (NARROWEST[data.axis] - max(xs) + min(xs)) / 2)
        ends = (min(xs), max(xs)) if log_x else (min(xs) - room, max(xs) + room)
        drawing.scale_x(ax, *scales.limits(*ends, log_x, 0.12), log_x, "{}%" if data.axis == "sparsity" else "{}")
        drawing.scale_y(ax, [point.y for point in data.points], data.dense)
        handles, labels = drawing.dense_line(ax, data.dense)
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
        for number, (point, size) in enumerate(zip(data.points, drawing.sizes(ax, data.points), strict=True)):
            drawing.mark(ax, point, styles[point.method], f"point-{number}", size)
            unit = "%" if data.axis == "sparsity" else " bits"
            tips[f"point-{number}"] = f"{point.name}, {scales.tick_label(round(point.x, 2))}{unit}: {point.y.text}"
        for method in dict.fromkeys(point.method for point in data.points):
            handles.append(drawing.key(styles[method], all(p.n_of_m for p in data.points if p.method == method)))
            labels.append(method)
        if len({point.n_of_m for point in data.points}) > 1:
            handles.append(Line2D([], [], color=MUTED, marker="o", linestyle="none", markerfacecolor=SURFACE))
            labels.append("hollow: N:M")
        ax.set_title(data.title)
        ax.set_xlabel("bits per weight, as stored" if data.axis == "bits" else "weights removed")
        drawing.legend(figure, handles, labels)
        return drawing.drawn(figure, tips)


def curves(data: Curves, styles: dict[str, Style]) -> Drawn:
    """Quality against the number of calibration sequences."""
    with drawing.settings():
        figure, ax = drawing.new_figure(2.5)
        tips: Tips = {}
        points = [point for line in data.lines for point in line.points]
        xs = [point.x for point in points]
        log_x = scales.is_log(xs)
        drawing.scale_x(
            ax, *scales.limits(min(xs), max(xs), log_x), log_x, "{}", sorted(set(xs)) if len(set(xs)) <= 9 else None
        )
        drawing.scale_y(ax, [point.y for point in points], data.dense)
        handles, labels = drawing.dense_line(ax, data.dense)
        dashes = drawing.dashes(data.lines)
        for number, line in enumerate(data.lines):
            style = styles[line.method]
            x, y = [p.x for p in line.points], [p.y.value for p in line.points]
            ax.plot(x, y, color=style.colour, linestyle=dashes[number], zorder=3)
            for index, point in enumerate(line.points):
                drawing.mark(ax, point, style, f"point-{number}-{index}")
                tips[f"point-{number}-{index}"] = f"{line.name}, {point.x:g} sequences: {point.y.text}"
            handles.append(drawing.key(style, line.n_of_m, dashes[number]))
            labels.append(line.name)
        ax.set_title(data.title)
        ax.set_xlabel("calibration sequences")
        drawing.legend(figure, handles, labels)
        return drawing.drawn(figure, tips)


def profile(data: Profile, styles: dict[str, Style]) -> Drawn:
    """Relative error of each linear against its block, a panel a linear."""
    with drawing.settings():
        n_rows = math.ceil(len(data.linears) / 2)
        figure = Figure(figsize=(WIDTH, 0.4 + 1.05 * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, 2, sharex=True, sharey=True, squeeze=False)
        every = [e for line in data.lines for blocks in line.errors.values() for e in blocks.values()]
        blocks = [block for line in data.lines for errors in line.errors.values() for block in errors]
        positive = [error for error in every if error > 0] or [1.0]
        log = scales.is_log(positive) and len(positive) == len(every)
        low, high = scales.limits(min(positive), max(positive), True) if log else (0.0, 1.08 * max(positive))
        dashes = drawing.dashes(data.lines)
        tips: Tips = {}
        for panel, ax in enumerate(grid.flat):
            if panel >= len(data.linears):
                ax.set_axis_off()
                continue
            linear = data.linears[panel]
            drawing.scale_x(
                ax, min(blocks) - 0.5, max(blocks) + 0.5, False, "{}", drawing.whole(min(blocks), max(blocks))
            )
            drawing.set_scale(ax, "y", low, high, log, "{}", None)
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
            drawing.key(styles[line.method], line.n_of_m, dash) for line, dash in zip(data.lines, dashes, strict=True)
        ]
        labels = [line.name for line in data.lines]
        free = grid.flat[-1] if len(data.linears) % 2 and max(map(len, labels)) <= LONGEST_IN_PANEL else None
        drawing.legend(figure, handles, labels, free)
        return drawing.drawn(figure, tips)


def heat_map(data: HeatMap) -> Drawn:
    """Methods against models; the colour is the loss, the text the value."""
    with drawing.settings():
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
            [y + 0.5 for y in range(len(data.lines))], [drawing.wrapped(name, 26) for name in data.lines], fontsize=6.5
        )
        ax.set_xticks([x + 0.5 for x in range(len(data.models))], [drawing.shortened(name, 24) for name in data.models])
        ax.xaxis.tick_top()
        for label in ax.get_xticklabels():
            label.set(rotation=30, rotation_mode="anchor", ha="left", va="bottom")
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        return drawing.drawn(figure, tips)


def cost_bars(data: Costs) -> Drawn:
    """Seconds a stage as bars, beside the highest memory as marks."""
    with drawing.settings():
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
        drawing.scale_x(bars, 0, 1.04 * longest, False, "{}")
        bars.set_yticks(list(places), [drawing.wrapped(line.name, 26) for line in data.drawn], fontsize=6.5)
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
        drawing.scale_x(marks, 0, highest_drawn, False, "{}", [0.0, scales.ticks(0, highest_drawn, False)[-1]])
        marks.tick_params(labelleft=False, left=False)
        marks.set_title("peak GB")
        marks.grid(visible=True, axis="y")
        drawing.legend(figure, handles, labels)
        return drawing.drawn(figure, tips)


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
