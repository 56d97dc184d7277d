"""Tables to read: a row an experiment, a column a metric, winners marked where they are significantly better."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from tabulate import tabulate

from nowag_exp.evaluation import Metric
from nowag_exp.evaluation.significance import LEVEL
from nowag_exp.ledger import Irregularity, summary
from nowag_exp.records.pairing import MEAN, NOISE_FLOOR, Measured, compare
from nowag_exp.records.record import RunRecord
from nowag_exp.records.store import content_key
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
        irregularities: of all of them.
        measured: what was measured, by column.
    """

    setting: dict[str, Any]
    irregularities: str
    measured: dict[Column, Measured]


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
    by_fingerprint = {record.fingerprint: record for record in records}
    sections = [
        _section(str(model), _rows(part, by_fingerprint, results, allow_mixed), form)
        for model, part in tidy(records).groupby("model", sort=True)
    ]
    return "\n".join(sections) + ("" if form == "tex" else f"\n{_legend(form)}\n")


def _rows(part: pd.DataFrame, records: dict[str, RunRecord], results: Path, allow_mixed: bool) -> list[Row]:
    """Rows of one model, in the order of the tidy table."""
    settings = part.drop_duplicates("fingerprint").set_index("fingerprint")
    groups: dict[str, list[str]] = {}
    for fingerprint in settings.index:
        groups.setdefault(_without_seeds(records[fingerprint], allow_mixed), []).append(fingerprint)
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
        irregularities = summary([entry for found in entries.values() for entry in found.elements()])
        measured = _measured([(of_seed[name], records[name]) for name in fingerprints], results, allow_mixed)
        rows.append(Row(setting, irregularities, measured))
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


def _without_seeds(record: RunRecord, with_evaluation: bool) -> str:
    """What records share that differ in seeds alone, and in what was measured unless that is to stay apart."""
    parts = ("model", "method", "calibration", *(["evaluation"] if with_evaluation else []))
    identity = {name: record.identity[name] for name in parts}
    return content_key(
        {
            name: {key: value for key, value in part.items() if key != "seed"} if isinstance(part, dict) else part
            for name, part in identity.items()
        }
    )


def _section(model: str, rows: list[Row], form: Format) -> str:
    """A model: a block of the metrics on windows, one a zero-shot suite, and notes."""
    columns = sorted({column for row in rows for column in row.measured}, key=_order)
    shown = [column for column in columns if not column.metric.startswith(NOISE_FLOOR)]
    shared, notes = _shared(rows)
    blocks: list[str] = []
    told: list[Row] = []  # Rows whose irregularities a block has shown.
    notes += _noise_floor(rows, columns)
    for suite in dict.fromkeys(column.suite for column in shown):
        settings = [name for name in (SUITE_SETTING if suite else SETTING) if name not in shared]
        cells = _cells(rows, settings, [column for column in shown if column.suite == suite], form)
        of_block = [row for row in rows if _has(row, suite)]
        if any(row.irregularities and not any(row is known for known in told) for row in of_block):
            cells["irregularities"] = [_escaped(row.irregularities or "-", form) for row in of_block]
            told += of_block
        title = " ".join(filter(None, [model, suite]))
        caption = title
        if form == "tex" and not blocks:  # It has no place for lines below.
            caption = " ".join([f"{'. '.join([title, *notes])}.", *_legend(form).split("\n")])
        blocks.append(_block(caption, cells, form))
    if any("†" in block for block in blocks):
        notes.append("†: measured on other tokens than most of its column")
    if form == "tex":
        return "\n".join(blocks)
    return "\n".join([*blocks, *(f"{note}{'  ' if form == 'md' else ''}" for note in notes)]) + "\n" * bool(notes)


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
            f"{_heading(Column(name, '', None), Counter())} {_value(name, measured)}"
            for name, measured in floor.items()
        ]
        n = next(iter(floor.values())).metrics[0].n
        lines.append(
            f"noise floor of {protocol}, the dense model in bfloat16 against float32: {', '.join(parts)} ({n} windows)"
        )
    return lines


def _cells(rows: list[Row], settings: list[str], columns: list[Column], form: Format) -> pd.DataFrame:
    rows = [row for row in rows if not row.measured.keys().isdisjoint(columns)]
    several = Counter((column.metric, column.protocol) for column in columns)
    cells = [
        {HEADINGS.get(name, name): _escaped(_setting(name, row.setting[name]), form) for name in settings}
        for row in rows
    ]
    for column in columns:
        winners = _winners(rows, column)
        usual = Counter(
            metric.token_hash for row in rows if column in row.measured for metric in row.measured[column].metrics
        )
        ((most, _),) = usual.most_common(1)
        for row, line in zip(rows, cells, strict=True):
            text = _escaped(_value(column.metric, row.measured[column]), form) if column in row.measured else "-"
            if column in row.measured and {metric.token_hash for metric in row.measured[column].metrics} != {most}:
                text += " †"
            is_winner = any(row is winner for winner in winners)
            line[_escaped(_heading(column, several), form)] = _marked(text, form) if is_winner else text
    return pd.DataFrame(cells)


def _has(row: Row, suite: str) -> bool:
    """Whether the row has something in the block of the suite."""
    return any(column.suite == suite and not column.metric.startswith(NOISE_FLOOR) for column in row.measured)


def _heading(column: Column, several: Counter[tuple[str, str]]) -> str:
    """``KL wiki_sample@512``, with the token hash where that was measured on more than one kind of tokens."""
    name = HEADINGS.get(column.metric, column.metric)
    parts = [column.task, name] if column.suite else [name, column.protocol]
    several_hashes = several[column.metric, column.protocol] > 1
    parts += [f"#{(column.token_hash or '')[:8]}"] if several_hashes else []
    return " ".join(filter(None, parts)) + (" %" if column.metric in PERCENT else "")


def _winners(rows: list[Row], column: Column) -> list[Row]:
    """Compressed rows that are significantly better than every other one that is at most as large.

    To be better than all of them each test alone must pass, so the level needs no adjustment for their number. Rows of
    a column on mixed tokens are not compared, and the smallest has nothing to be better than.
    """
    found = [row for row in rows if column in row.measured and row.setting["method"] != DENSE]
    if len({metric.token_hash for row in found for metric in row.measured[column].metrics}) > 1:
        return []
    winners = []
    sizes = [round(float(row.setting["bits_per_weight"]), 2) for row in found]  # As the table shows them.
    for row, size in zip(found, sizes, strict=True):
        own = row.measured[column]
        rivals = [
            other.measured[column]
            for other, its_size in zip(found, sizes, strict=True)
            if other is not row and its_size <= size
        ]
        if rivals and all(own.better_than(rival) for rival in rivals) and all(_is_real(own, rival) for rival in rivals):
            winners.append(row)
    return winners


def _is_real(a: Measured, b: Measured) -> bool:
    found = compare(a, b)
    return found is not None and found.p_value < LEVEL


def _value(metric: str, measured: Measured) -> str:
    """``50.57 ± 3.85 (s 0.42)``: the mean over seeds, its error over windows or items, its spread over seeds."""
    scale, decimals = _precision(metric, measured.value)
    text = f"{scale * measured.value:.{decimals}f}"
    if measured.standard_error is not None:
        text += f" ± {scale * measured.standard_error:.{decimals}f}"
    details = measured.metrics[0].details
    if metric == "flips" and len(measured.metrics) == 1:
        text += f" (-{details['lost']} +{details['won']})"
    if measured.spread is not None:
        text += f" (s {scale * measured.spread:.{decimals}f})"
    return text


def _precision(metric: str, value: float) -> tuple[int, int]:
    """The factor by which a metric is shown, and its decimals: of a divergence three digits that count."""
    if metric == "kl":
        return 1, 3 if value <= 0 else max(2, 2 - math.floor(math.log10(value)))
    return (100, 1) if metric in PERCENT else (1, 2)


def _setting(name: str, value: Any) -> str:
    if pd.isna(value):
        return "-"
    if name == "sparsity":
        return f"{value:.1%}"
    return f"{value:.2f}" if name.startswith("bits") else f"{value:.1f}" if name == "megabytes" else str(value)


def _block(title: str, cells: pd.DataFrame, form: Format) -> str:
    if form == "tex":
        return cells.style.hide(axis="index").to_latex(hrules=True, caption=_escaped(title, form))
    style = "github" if form == "md" else "simple"
    body = tabulate(cells.values.tolist(), headers=list(cells.columns), tablefmt=style, disable_numparse=True)
    return f"### {title}\n\n{body}\n" if form == "md" else f"{title}\n{body}\n"


def _escaped(text: str, form: Format) -> str:
    if form == "tex":
        return re.sub(r"([_&%$#{}])", r"\\\1", text).replace("^", r"\^{}")
    return text.replace("|", r"\|") if form == "md" else text


def _marked(text: str, form: Format) -> str:
    return {"tex": rf"\textbf{{{text}}}", "md": f"**{text}**"}.get(form, f"{text} *")


def _legend(form: Format) -> str:
    mark = "*" if form == "text" else "bold"
    return (
        f"{mark}: significantly better (paired test over windows or items, p < {LEVEL}) than every other compressed "
        "row that is at most as large (bits).\n"
        "±: standard error over windows or items. s: standard deviation over seeds.\n"
        "bits: per compressed weight as stored. model bits: per parameter of the model. MB: 10^6 bytes of tensors.\n"
        "KL: from the dense model, nats a token. top-1: tokens at which both choose the same. flips: items that only "
        "one of both answers right (- lost, + won)."
    )
