"""Tables to read: a row an experiment, a column a metric, a mark on what is shown to be best of its size."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from tabulate import tabulate

from nowag_exp.evaluation import Metric
from nowag_exp.evaluation.significance import LEVEL
from nowag_exp.ledger import Irregularity, summary
from nowag_exp.records.marks import COMPARABLE, Mark, marks
from nowag_exp.records.pairing import MEAN, NOISE_FLOOR, Measured, setting_key
from nowag_exp.records.record import RunRecord
from nowag_exp.records.tables import CALIBRATION, DENSE, SETTING, SIZES, tidy

Format = Literal["text", "csv", "md", "tex"]
FORMATS: tuple[Format, ...] = get_args(Format)

HEADINGS = {
    "bits_per_weight": "bits",
    "bits_per_parameter": "model bits",
    "megabytes": "MB",
    "n_sequences": "sequences",
    "context_length": "context",
    "kl": "KL",
    "top1_agreement": "top-1",
    "acc": "",
    "acc_norm": "norm",
}
IN_LATEX = str.maketrans(
    {
        **{character: rf"\{character}" for character in "_&%$#{}"},
        "^": r"\^{}",
        "~": r"\~{}",
        "\\": r"\textbackslash{}",
        # In the fonts that LaTeX begins with, these would print as other characters.
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "°": r"\textdegree{}",
    }
)
ONLY_MODELS = "°"
"""Behind a value that is best of its size among these models, where seeds are too few to say so of settings."""

METRICS = ("perplexity", "kl", "top1_agreement", "acc", "acc_norm", "flips")
PERCENT = {"top1_agreement", "acc", "acc_norm", "flips"}
SUITE_SETTING = ("method", "settings", "bits_per_weight", "propagate", *CALIBRATION)


@dataclass(frozen=True)
class Column:
    """A metric under a protocol.

    Attributes:
        token_hash: what it was measured on; ``None`` where values on different tokens may share the column.
    """

    metric: str
    protocol: str
    token_hash: str | None

    @property
    def suite(self) -> str:
        """The zero-shot suite; empty for a metric on windows."""
        return "" if "@" in self.protocol else self.protocol.partition("/")[0]

    @property
    def task(self) -> str:
        """The zero-shot task, or ``mean``; empty if it is of the whole suite, or on windows."""
        return "" if "@" in self.protocol else self.protocol.partition("/")[2]


@dataclass(frozen=True)
class Row:
    """Records that differ in their seeds alone.

    Attributes:
        setting: cells by column of the tidy table; sizes are means.
        ledger: irregularities of all of them.
        measured: what was measured, by column.
        records: in the order of the tidy table; several of one seed if they differ in what was measured.
    """

    setting: dict[str, Any]
    ledger: list[Irregularity]
    measured: dict[Column, Measured]
    records: list[RunRecord]

    @property
    def irregularities(self) -> str:
        """The ledger in a word or two; empty if all was regular."""
        return summary(self.ledger)


@dataclass(frozen=True)
class Cell:
    """What a cell says, not yet escaped for any format.

    Attributes:
        text: the cell.
        mark: whether it is shown to be better than every other compressed row of comparable size.
    """

    text: str
    mark: Mark | None = None


@dataclass(frozen=True)
class Block:
    """A table of one model: of its metrics on windows, or of a zero-shot suite."""

    title: str
    headings: list[str]
    lines: list[list[Cell]]


@dataclass(frozen=True)
class Section:
    """A model: its rows, the tables made of them, and what is said below these."""

    model: str
    rows: list[Row]
    blocks: list[Block]
    notes: list[str]


def render(records: list[RunRecord], form: Format, results: Path, allow_mixed: bool = False) -> str:
    """The table as text that ends in a line break.

    ``csv`` is tidy, one row a metric. The others are wide: a section a model, a row an experiment with all its seeds, a
    column a metric and protocol; a zero-shot suite has a block of its own. Values measured on different tokens share a
    column only if ``allow_mixed``, and cells on other tokens than most of it are marked then.

    Args:
        records: of any experiments.
        form: of the table.
        results: folder of the records, with their items.
        allow_mixed: whether values measured on different tokens may share a column.
    """
    if form == "csv":
        return tidy(records).to_csv(index=False, lineterminator="\n")
    if not records:
        return "no records yet\n"
    texts = [_rendered(section, form) for section in sections(records, results, allow_mixed)]
    return "\n".join(texts) + ("" if form == "tex" else f"\n{legend(form)}\n")


def sections(records: list[RunRecord], results: Path, allow_mixed: bool = False) -> list[Section]:
    """The same table before it is text, a section a model, for whoever shows it in another way.

    Args:
        records: of any experiments.
        results: folder of the records, with their items.
        allow_mixed: whether values measured on different tokens may share a column.
    """
    by_fingerprint = {record.fingerprint: record for record in records}
    return [
        _section(str(model), _rows(part, by_fingerprint, results, allow_mixed))
        for model, part in tidy(records).groupby("model", sort=True)
    ]


def _rows(part: pd.DataFrame, records: dict[str, RunRecord], results: Path, allow_mixed: bool) -> list[Row]:
    """Rows of one model, in the order of the tidy table."""
    settings = part.drop_duplicates("fingerprint").set_index("fingerprint")
    groups: dict[str, list[str]] = {}
    for fingerprint in settings.index:
        # Values on mixed tokens stay in rows of their own.
        key = setting_key(records[fingerprint], with_evaluation=allow_mixed)
        groups.setdefault(key, []).append(fingerprint)
    rows = []
    for fingerprints in groups.values():
        of_group = settings.loc[fingerprints]
        setting = {name: of_group[name].iloc[0] for name in SETTING}
        setting |= {name: of_group[name].mean() for name in SIZES}
        seeds = [(row.seed, row.method_seed) for row in of_group[["seed", "method_seed"]].itertuples()]
        setting["seed"] = ",".join(dict.fromkeys(_seed(*pair) for pair in sorted(seeds, key=str))) or None
        of_seed = dict(zip(fingerprints, map(str, seeds), strict=True))
        # Two records of one seed, with different measurements, have the irregularities of the same compression.
        entries: dict[str, Counter[Irregularity]] = {}
        for name in fingerprints:
            entries[of_seed[name]] = entries.get(of_seed[name], Counter()) | Counter(records[name].irregularities)
        ledger = [entry for found in entries.values() for entry in found.elements()]
        measured = _measured([(of_seed[name], records[name]) for name in fingerprints], results, allow_mixed)
        rows.append(Row(setting, ledger, measured, [records[name] for name in fingerprints]))
    return rows


def _seed(seed: Any, method_seed: Any) -> str:
    """``0``, or ``0/1`` if calibration and method have seeds of their own; empty without any."""
    known = [str(value) for value in (seed, method_seed) if not pd.isna(value)]
    return "/".join(dict.fromkeys(known))


def _measured(records: list[tuple[str, RunRecord]], results: Path, allow_mixed: bool) -> dict[Column, Measured]:
    """Each metric once a seed: records with different measurements may share some."""
    found: dict[Column, dict[str, tuple[RunRecord, Metric]]] = {}
    for seed, record in records:
        for metric in record.metrics:
            column = Column(metric.name, metric.protocol, None if allow_mixed else metric.token_hash)
            found.setdefault(column, {}).setdefault(seed, (record, metric))
    return {
        column: Measured(results, [record for record, _ in pairs.values()], [metric for _, metric in pairs.values()])
        for column, pairs in found.items()
    }


def _section(model: str, rows: list[Row]) -> Section:
    """A model: a block of the metrics on windows, one a zero-shot suite, and notes."""
    columns = sorted({column for row in rows for column in row.measured}, key=_order)
    shown = [column for column in columns if not column.metric.startswith(NOISE_FLOOR)]
    shared, notes = _shared(rows)
    notes += _noise_floor(rows, columns)
    blocks: list[Block] = []
    told: list[Row] = []  # Rows whose irregularities a block has shown.
    for suite in dict.fromkeys(column.suite for column in shown):
        settings = [name for name in (SUITE_SETTING if suite else SETTING) if name not in shared]
        of_block = [row for row in rows if _has(row, suite)]
        title = " ".join(filter(None, [model, suite]))
        block = _block(title, of_block, settings, [column for column in shown if column.suite == suite])
        if any(row.irregularities and not any(row is known for known in told) for row in of_block):
            block.headings.append("irregularities")
            for row, line in zip(of_block, block.lines, strict=True):
                line.append(Cell(row.irregularities or "-"))
            told += of_block
        blocks.append(block)
    if any("†" in cell.text for block in blocks for line in block.lines for cell in line):
        notes.append("†: measured on other tokens than most of its column")
    return Section(model, rows, blocks, notes)


def _rendered(section: Section, form: Format) -> str:
    texts = []
    for number, block in enumerate(section.blocks):
        caption = block.title
        if form == "tex" and number == 0:  # It has no place for lines below.
            caption = " ".join([f"{'. '.join([caption, *section.notes])}.", *legend(form).split("\n")])
        texts.append(_rendered_block(caption, block, form))
    if form == "tex":
        return "\n".join(texts)
    notes = [f"{note}{'  ' if form == 'md' else ''}" for note in section.notes]
    return "\n".join([*texts, *notes]) + "\n" * bool(notes)


def _order(column: Column) -> tuple[Any, ...]:
    rank = METRICS.index(column.metric) if column.metric in METRICS else len(METRICS)
    is_summary = not column.task or column.task == MEAN
    return column.suite, is_summary, "" if is_summary else column.task, rank, column.protocol, column.token_hash or ""


def _shared(rows: list[Row]) -> tuple[set[str], list[str]]:
    """Columns that are the same wherever there is a calibration, and the line that takes their place."""
    found = {name: {row.setting[name] for row in rows if not pd.isna(row.setting[name])} for name in CALIBRATION}
    if any(len(values) != 1 for name, values in found.items() if name != "seed") or len(found["seed"]) > 1:
        return {name for name, values in found.items() if not values}, []
    text, n_sequences, context, *seed = (value for values in found.values() for value in values)
    seeds = f", seed {seed[0]}" if seed else ""
    return set(CALIBRATION), [f"calibration, where a method uses one: {text}, {n_sequences} x {context} tokens{seeds}"]


def _noise_floor(rows: list[Row], columns: list[Column]) -> list[str]:
    lines = []
    for protocol in dict.fromkeys(column.protocol for column in columns if column.metric.startswith(NOISE_FLOOR)):
        floor = {
            column.metric.removeprefix(NOISE_FLOOR): measured
            for row in rows
            for column, measured in row.measured.items()
            if column.protocol == protocol and column.metric.startswith(NOISE_FLOOR)
        }
        parts = [
            f"{heading(Column(name, '', None), Counter())} {value_text(name, measured)}"
            for name, measured in floor.items()
        ]
        n = next(iter(floor.values())).metrics[0].n
        lines.append(
            f"noise floor of {protocol}, the dense model in bfloat16 against float32: {', '.join(parts)} ({n} windows)"
        )
    return lines


def _block(title: str, rows: list[Row], settings: list[str], columns: list[Column]) -> Block:
    several = Counter((column.metric, column.protocol) for column in columns)
    headings = [HEADINGS.get(name, name) for name in settings]
    lines = [[Cell(setting_text(name, row.setting[name])) for name in settings] for row in rows]
    for column in columns:
        headings.append(heading(column, several))
        marked = _marks(rows, column)
        usual = Counter(
            metric.token_hash for row in rows if column in row.measured for metric in row.measured[column].metrics
        )
        ((most, _),) = usual.most_common(1)
        for row, line, mark in zip(rows, lines, marked, strict=True):
            text = value_text(column.metric, row.measured[column]) if column in row.measured else "-"
            if column in row.measured and {metric.token_hash for metric in row.measured[column].metrics} != {most}:
                text += " †"
            line.append(Cell(text, mark))
    return Block(title, headings, lines)


def _has(row: Row, suite: str) -> bool:
    """Whether the row has something in the block of the suite."""
    return any(column.suite == suite and not column.metric.startswith(NOISE_FLOOR) for column in row.measured)


def heading(column: Column, several: Counter[tuple[str, str]]) -> str:
    """``KL wiki_sample@512``, with the token hash where that was measured on more than one kind of tokens."""
    name = HEADINGS.get(column.metric, column.metric)
    parts = [column.task, name] if column.suite else [name, column.protocol]
    several_hashes = several[column.metric, column.protocol] > 1
    parts += [f"#{(column.token_hash or '')[:8]}"] if several_hashes else []
    return " ".join(filter(None, parts)) + (" %" if column.metric in PERCENT else "")


def _marks(rows: list[Row], column: Column) -> list[Mark | None]:
    """A row each; none for dense rows, nor in a column on mixed tokens."""
    found = [row.measured.get(column) if row.setting["method"] != DENSE else None for row in rows]
    if len({metric.token_hash for measured in found if measured for metric in measured.metrics}) > 1:
        return [None] * len(rows)
    return marks(found, [float(row.setting["bits_per_weight"]) for row in rows])


def value_text(metric: str, measured: Measured) -> str:
    """``50.57 ± 3.85 (s 0.42)``: the mean over seeds, its error over windows or items, its spread over seeds."""
    scale, decimals = precision(metric, measured.value)
    text = f"{scale * measured.value:.{decimals}f}"
    if measured.standard_error is not None:
        text += f" ± {scale * measured.standard_error:.{decimals}f}"
    details = measured.metrics[0].details
    if metric == "flips" and len(measured.metrics) == 1:
        text += f" (-{details['lost']} +{details['won']})"
    if measured.spread is not None:
        text += f" (s {scale * measured.spread:.{decimals}f})"
    return text


def precision(metric: str, value: float) -> tuple[int, int]:
    """The factor by which a metric is shown, and its decimals: of a divergence three digits that count."""
    if metric == "kl":
        return 1, 3 if value <= 0 else max(2, 2 - math.floor(math.log10(value)))
    return (100, 1) if metric in PERCENT else (1, 2)


def setting_text(name: str, value: Any) -> str:
    """A cell of the setting, by its column in the tidy table; ``-`` if there is none."""
    if pd.isna(value):
        return "-"
    if name == "sparsity":
        return f"{value:.1%}"
    return f"{value:.2f}" if name.startswith("bits") else f"{value:.1f}" if name == "megabytes" else str(value)


def _rendered_block(caption: str, block: Block, form: Format) -> str:
    headings = [_escaped(name, form) for name in block.headings]
    lines = [[_marked(_escaped(cell.text, form), cell.mark, form) for cell in line] for line in block.lines]
    if form == "tex":
        cells = pd.DataFrame(lines, columns=headings)
        return cells.style.hide(axis="index").to_latex(hrules=True, caption=_escaped(caption, form))
    body = tabulate(lines, headers=headings, tablefmt="github" if form == "md" else "simple", disable_numparse=True)
    return f"### {caption}\n\n{body}\n" if form == "md" else f"{caption}\n{body}\n"


def _escaped(text: str, form: Format) -> str:
    if form == "tex":
        return text.translate(IN_LATEX)
    return text.replace("|", r"\|") if form == "md" else text


def _marked(text: str, mark: Mark | None, form: Format) -> str:
    if mark == "models":
        return f"{text} {_escaped(ONLY_MODELS, form)}"
    if mark == "settings":
        return {"tex": rf"\textbf{{{text}}}", "md": f"**{text}**"}.get(form, f"{text} *")
    return text


def legend(form: Format) -> str:
    """What marks, signs and columns mean, in lines."""
    mark = "*" if form == "text" else "bold"
    return (
        f"{mark}: better than every other compressed row of comparable size (bits within {COMPARABLE - 1:.0%}), shown "
        f"over seeds and windows or items (p < {LEVEL}).\n"
        f"{ONLY_MODELS}: the same of these models only; another seed might turn it, for there is one seed.\n"
        "±: standard error over windows or items. s: standard deviation over seeds.\n"
        "bits: per compressed weight as stored. model bits: per parameter of the model. MB: 10^6 bytes of tensors.\n"
        "KL: from the dense model, nats a token. top-1: tokens at which both choose the same. flips: items that only "
        "one of both answers right (- lost, + won)."
    )
