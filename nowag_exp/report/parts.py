"""The sections of the page: what each shows, what it says about that, and what would fill it if it is empty."""

import re
from dataclasses import dataclass, field

from markupsafe import Markup

from nowag_exp.published import Published
from nowag_exp.records.wide import Section, legend
from nowag_exp.report import figures
from nowag_exp.report.beside import beside
from nowag_exp.report.costs import Cost, Costs, costs
from nowag_exp.report.figures import Drawn
from nowag_exp.report.heatmap import heat_maps
from nowag_exp.report.palette import Style
from nowag_exp.report.profile import profile
from nowag_exp.report.provenance import origins, warnings
from nowag_exp.report.rows import names
from nowag_exp.report.series import Axis, calibration_curves, trade_offs
from nowag_exp.report.svg import for_page
from nowag_exp.report.tables import Table, table

LONGEST_STEM = 80
FEW = 6
"""Names that a sentence lists before it counts the others."""

BARS = (
    "Thin bars are one standard error over windows or items (of perplexity: of its logarithm), thick ones the standard "
    "deviation over seeds. The line is the dense model, the band its standard error. Every marker stands at its value; "
    "of some that lie on each other the lower ones are larger, like rings."
)


@dataclass(frozen=True)
class View:
    """A figure in the page."""

    key: str
    stem: str
    title: str
    note: str
    svg: Markup


@dataclass(frozen=True)
class Part:
    """A section of the page.

    Attributes:
        missing: what it has too little of, if it is empty.
        command: that would fill it.
    """

    key: str
    title: str
    intro: str = ""
    views: list[View] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: str = ""
    command: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.views or self.tables or self.notes)


class Album:
    """Collects the figures of a report under names of their own.

    Attributes:
        files: their content, by path below the report's folder.
    """

    def __init__(self) -> None:
        self.files: dict[str, str | bytes] = {}

    def add(self, drawn: Drawn, kind: str, title: str, note: str, *about: str) -> View:
        """Keep a figure.

        Args:
            drawn: the figure.
            kind: its file's name begins with it.
            title: its accessible name, and its caption's first sentence.
            note: the rest of the caption.
            about: model and metric, for the file's name.
        """
        stem = self._stem("-".join([kind, *about]))
        self.files[f"figures/{stem}.svg"] = drawn.svg
        self.files[f"figures/{stem}.pdf"] = drawn.pdf
        key = f"figure-{len(self.files) // 2}"
        described = "; ".join(drawn.tips.values())
        return View(key, stem, title, note, Markup(for_page(drawn.svg, key, title, described, drawn.tips)))

    def _stem(self, text: str) -> str:
        """Letters, digits, ``_``, ``.`` and ``-``; another one for a name that is taken, whatever its case."""
        plain = re.sub(r"[^a-z0-9_.]+", "-", text.lower())[:LONGEST_STEM].strip("-.")
        stem, number = plain, 2
        while f"figures/{stem}.svg" in self.files:
            stem, number = f"{plain}-{number}", number + 1
        return stem


def all_parts(
    sections: list[Section], styles: dict[str, Style], published: list[Published], album: Album
) -> list[Part]:
    """In the order of the page.

    Args:
        sections: of the wide tables.
        styles: by method.
        published: values to hold the measured ones against.
        album: takes the figures.
    """
    return [
        _trade_off_part("bits", sections, styles, album),
        _trade_off_part("sparsity", sections, styles, album),
        _heat_part(sections, album),
        _profile_part(sections, styles, album),
        _curves_part(sections, styles, album),
        _cost_part(sections, album),
        _beside_part(sections, published),
        _rows_part(sections),
        _ledger_part(sections),
        _provenance_part(sections),
    ]


def _trade_off_part(axis: Axis, sections: list[Section], styles: dict[str, Style], album: Album) -> Part:
    views = [
        album.add(
            figures.trade_off(data, styles),
            axis,
            f"{data.model}: {data.title} against {'bits per weight' if axis == 'bits' else 'sparsity'}",
            data.left_out,
            data.model,
            data.title,
        )
        for section in sections
        for data in trade_offs(section, axis)
    ]
    if axis == "bits":
        return Part(
            "bits",
            "Quality against size",
            "Bits per compressed weight as stored: values, indices, masks, codebooks, norms and scales. On the dashed "
            "front are the rows that no compressed row of the same size or less beats by its mean. " + BARS,
            views,
            missing="No compressed model was measured.",
            command="nowag-exp sweep demo",
        )
    return Part(
        "sparsity",
        "Quality against sparsity",
        "Weights removed, counted. The front is of rows that no row with as many weights removed, or more, beats. "
        "Bars and lines are as above.",
        views,
        missing="No record has weights removed.",
        command="nowag-exp run --multirun method=nowag_p,wanda method.sparsity=0.3,0.5,0.7",
    )


def _heat_part(sections: list[Section], album: Album) -> Part:
    views = [
        album.add(figures.heat_map(data), "models", f"{data.title}: methods against models", data.left_out, data.title)
        for data in heat_maps(sections)
    ]
    return Part(
        "models",
        "Methods and models",
        "Text: the value. Colour: what is lost of the dense model of the same column, the ratio of perplexities "
        "(darkest at the largest ratio, at least 1.5 and at most 10) or points of accuracy. Grey: no dense record to "
        "hold it against. Perplexities of models with different tokenizers do not compare with each other.",
        views,
        missing="No metric was measured on compressed models of two kinds.",
        command="nowag-exp run --multirun model=llama32_1b,llama2_7b method=dense,nowag_p,wanda evaluation=wikitext2",
    )


def _profile_part(sections: list[Section], styles: dict[str, Style], album: Album) -> Part:
    views = [
        album.add(
            figures.profile(data, styles),
            "blocks",
            f"{data.model}: relative error of each linear by block",
            data.left_out,
            data.model,
        )
        for section in sections
        if (data := profile(section)) is not None
    ]
    return Part(
        "blocks",
        "Error of each block",
        "‖W − Ŵ‖ / ‖W‖ of each linear (Frobenius norm): how far the weights moved, not how much that matters. A method "
        "that weighs errors by the activations moves them further than rounding or magnitude, and is better for it.",
        views,
        missing="No record holds compressed linears.",
        command="nowag-exp sweep demo",
    )


def _curves_part(sections: list[Section], styles: dict[str, Style], album: Album) -> Part:
    views = [
        album.add(
            figures.curves(data, styles),
            "calibration",
            f"{data.model}: {data.title} against calibration sequences",
            data.left_out,
            data.model,
            data.title,
        )
        for section in sections
        for data in calibration_curves(section)
    ]
    return Part(
        "calibration",
        "Calibration size",
        "All points of a figure are measured on the same windows or items, so differences between them are surer than "
        "their bars suggest. Bars and lines are as above.",
        views,
        missing="No method was calibrated on two numbers of sequences.",
        command="nowag-exp run --multirun method=nowag_p,wanda calibration.n_sequences=1,4,16,64",
    )


def _cost_part(sections: list[Section], album: Album) -> Part:
    found = [costs(section) for section in sections]
    views = [
        album.add(figures.cost_bars(data), "costs", f"{data.model}: time and memory", data.left_out, data.model)
        for data in found
    ]
    return Part(
        "costs",
        "Time and memory",
        "Wall seconds a stage, the mean over seeds; a stage taken from the store counts with what it cost when it was "
        "computed. Peak memory is of the whole process (GB: 10^9 bytes), so it includes what earlier jobs of a sweep "
        "left loaded. Measured once, on a machine that may have had other work.",
        views,
        [_cost_table(f"costs-table-{number}", data) for number, data in enumerate(found)],
    )


def _cost_table(key: str, data: Costs) -> Table:
    stages = list(dict.fromkeys(stage for line in data.lines for stage in line.stages))
    peaks = {"peak GB": [line.gigabytes for line in data.lines], "peak GPU GB": [c.gpu_gigabytes for c in data.lines]}
    columns = {
        "row": [line.name for line in data.lines],
        **{f"{stage.replace('_', ' ')} s": [_seconds(line, stage) for line in data.lines] for stage in stages},
        **{
            name: ["-" if value is None else f"{value:.2f}" for value in values]
            for name, values in peaks.items()
            if any(value is not None for value in values)
        },
    }
    lines = list(zip(*columns.values(), strict=True))
    return table(key, f"{data.model}: seconds a stage, and peak memory", list(columns), lines)


def _seconds(line: Cost, stage: str) -> str:
    if stage not in line.stages:
        return "-"
    return f"{line.stages[stage]:.1f}" + (" (reused)" if stage in line.reused else "")


def _beside_part(sections: list[Section], published: list[Published]) -> Part:
    found = beside(sections, published)
    lines = [
        [
            line.model, line.name, line.metric, line.ours, line.published, line.difference, line.source,
            "; ".join(line.differences) or "none known",
        ]
        for line in found
    ]  # fmt: skip
    headings = ["model", "row", "metric", "ours", "published", "ours − published", "source", "protocol differs in"]
    n = sum(not line.differences for line in found)
    return Part(
        "published",
        "Published beside measured",
        f"{len(found)} published values of the same model, method, setting and data set; {n} of them with no known "
        "difference in protocol. Where protocols differ, the difference of the values says nothing of the method.",
        tables=[table("published-table", "Published beside measured", headings, lines)] if found else [],
        missing="Nothing that was measured here has been published.",
        command="nowag-exp run model=llama2_7b calibration=redpajama method=nowag_p method.pattern=2:4 "
        "evaluation=paper",
    )


def _rows_part(sections: list[Section]) -> Part:
    tables, notes = [], []
    for number, section in enumerate(sections):
        for index, block in enumerate(section.blocks):
            tables.append(table(f"rows-{number}-{index}", block.title, block.headings, block.lines))
        notes += [f"{section.model}: {note}" for note in section.notes]
    return Part(
        "rows",
        "All rows",
        "A row is an experiment with all its seeds; a heading sorts by its column, and again the other way.",
        tables=tables,
        notes=notes + legend("md").split("\n"),
    )


def _ledger_part(sections: list[Section]) -> Part:
    lines = []
    for section in sections:
        for row, name in zip(section.rows, names(section.rows), strict=True):
            for kind in dict.fromkeys(entry.kind for entry in row.ledger):
                entries = [entry for entry in row.ledger if entry.kind == kind]
                places = list(dict.fromkeys(entry.where for entry in entries))
                count = sum(entry.count for entry in entries)
                lines.append([section.model, name, kind, str(count), str(len(places)), places[0], entries[0].detail])
    headings = ["model", "row", "kind", "count", "places", "first place", "what happened there"]
    intro = "Whatever was not the textbook path. " + (
        ""
        if lines
        else "No record has an entry: no dead inputs, no ties, no raised dampening, no shared text, nothing cut."
    )
    tables = [table("ledger-table", "Irregularities by row and kind", headings, lines)] if lines else []
    return Part("ledger", "Irregularities", intro, tables=tables)


def _provenance_part(sections: list[Section]) -> Part:
    lines = [
        [
            str(origin.n_records), listed(origin.models), origin.package, origin.commit, origin.python,
            origin.libraries, origin.machine, minute(origin.first), minute(origin.last),
        ]
        for origin in origins(sections)
    ]  # fmt: skip
    headings = ["records", "models", "nowag_exp", "commit", "Python", "libraries", "machine", "first finished", "last"]
    found = [warning for section in sections for warning in warnings(section)]
    return Part(
        "provenance",
        "Provenance",
        "" if found else "All records of each table are of the same versions and machine.",
        tables=[table("provenance-table", "Versions and machines", headings, lines)],
        notes=found,
    )


def listed(texts: list[str], most: int = FEW) -> str:
    """``a, b and 3 more``."""
    shown = ", ".join(texts[:most])
    return f"{shown} and {len(texts) - most} more" if len(texts) > most else shown


def minute(moment: str) -> str:
    """``2026-11-22 11:48 UTC``, of ISO 8601 in UTC."""
    return f"{moment[:10]} {moment[11:16]} UTC" if len(moment) > 16 else moment
