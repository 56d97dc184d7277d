"""Tables, from records alone."""

import re
from typing import Any, Literal, get_args

import pandas as pd
from tabulate import tabulate

from nowag_exp.ledger import summary
from nowag_exp.records.record import RunRecord
from nowag_exp.records.store import content_key

Format = Literal["text", "csv", "md", "tex"]
FORMATS: tuple[Format, ...] = get_args(Format)
DENSE = "dense"

SETTING = (
    "method",
    "settings",
    "sparsity",
    "bits_per_weight",
    "bits_per_parameter",
    "megabytes",
    "propagate",
    "calibration",
    "n_sequences",
    "context_length",
    "seed",
)
RESULT = ("metric", "protocol", "value", "standard_error", "token_hash", "irregularities", "fingerprint")
COLUMNS = ("model", *SETTING, *RESULT)
HEADINGS = {
    "bits_per_weight": "bits",
    "bits_per_parameter": "model bits",
    "megabytes": "MB",
    "n_sequences": "sequences",
    "context_length": "context",
}


def tidy(records: list[RunRecord]) -> pd.DataFrame:
    """One row a metric."""
    models = _told_apart([record.labels.model for record in records], [record.identity["model"] for record in records])
    calibrations = _told_apart(
        [record.labels.calibration for record in records],
        [_without_columns(record.identity["calibration"]) for record in records],
    )
    rows = [
        {
            **vars(record.labels),
            "model": model,
            "settings": settings,
            "calibration": calibration,
            "sparsity": record.compression.sparsity,
            "bits_per_weight": record.compression.bits_per_weight,
            "bits_per_parameter": record.compression.bits_per_parameter,
            "megabytes": record.compression.n_bytes / 1e6,
            "metric": metric.name,
            "protocol": metric.protocol,
            "value": metric.value,
            "standard_error": metric.standard_error,
            "token_hash": metric.token_hash,
            "irregularities": summary(record.irregularities),
            "fingerprint": record.fingerprint,
        }
        for record, model, calibration, settings in zip(records, models, calibrations, _settings(records), strict=True)
        for metric in record.metrics
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"n_sequences": "Int64", "context_length": "Int64", "seed": "Int64"}
    )
    # Dense first, then by how much is removed, then from large to small; of about equal size the best on top.
    order = table.assign(
        compressed=table["method"] != DENSE,
        sparsity=table["sparsity"].round(2),
        smaller=-(table["bits_per_weight"] // 1),
    ).sort_values(["model", "protocol", "compressed", "sparsity", "smaller", "value"], kind="stable")
    return table.loc[order.index].reset_index(drop=True)


def _settings(records: list[RunRecord]) -> list[str | None]:
    """The settings of each record; where two rows would look alike, with all settings in which they differ."""
    found: dict[tuple[Any, ...], dict[str, set[str]]] = {}
    keys = [tuple(vars(record.labels).values()) for record in records]
    for key, record in zip(keys, records, strict=True):
        alike = found.setdefault(key, {})
        for name, value in record.identity["method"].items():
            alike.setdefault(name, set()).add(repr(value))
    texts = []
    for key, record in zip(keys, records, strict=True):
        own = record.identity["method"]
        differing = [name for name in own if len(found[key][name]) > 1]
        parts = [record.labels.settings, *(f"{name}={own[name]}" for name in differing)]
        texts.append(", ".join(filter(None, parts)) or None)
    return texts


def _told_apart(labels: list[str | None], identities: list[Any]) -> list[str | None]:
    """Add a hash to labels that stand for different things: two folders of one name, two dtypes of one model."""
    keys = [
        None if label is None else content_key({"": identity})
        for label, identity in zip(labels, identities, strict=True)
    ]
    meanings: dict[str | None, set[str | None]] = {}
    for label, key in zip(labels, keys, strict=True):
        meanings.setdefault(label, set()).add(key)
    return [
        f"{label} #{key[:8]}" if label and key and len(meanings[label]) > 1 else label
        for label, key in zip(labels, keys, strict=True)
    ]


def _without_columns(calibration: dict[str, Any] | None) -> dict[str, Any] | None:
    """What fixes a calibration but has no column of its own: text, sampling, separator, BOS."""
    shown = {"n_sequences", "context_length", "seed"}
    return calibration and {key: value for key, value in calibration.items() if key not in shown}


def render(records: list[RunRecord], form: Format) -> str:
    """The table as text that ends in a line break.

    ``csv`` is tidy, one row a metric. The others are wide: a section a model, a row an experiment, a column a metric
    and protocol. Values measured on different tokens never share a column.
    """
    if form == "csv":
        return tidy(records).to_csv(index=False, lineterminator="\n")
    if not records:
        return "no records yet\n"
    sections = [_wide(model, part) for model, part in tidy(records).groupby("model", sort=True)]
    return "\n".join(_section(model, cells, best, form) for model, cells, best in sections) + _legend(form)


def _wide(model: object, part: pd.DataFrame) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Cells as strings, and which of them are the best of their column."""
    part = part.assign(column=_value_columns(part))
    rows = part.drop_duplicates("fingerprint").set_index("fingerprint")
    cells = rows[list(SETTING)].copy()
    cells["sparsity"] = [f"{value:.1%}" for value in cells["sparsity"]]
    for column in ("bits_per_weight", "bits_per_parameter"):
        cells[column] = [f"{value:.2f}" for value in cells[column]]
    cells["megabytes"] = [f"{value:.1f}" for value in cells["megabytes"]]
    cells = cells.astype("object").where(cells.notna(), "-").astype(str)
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for heading, values in part.groupby("column", sort=True):
        column, values = str(heading), values.set_index("fingerprint")
        text = values.apply(lambda row: _with_error(row["value"], row["standard_error"]), axis=1)
        cells[column] = text.reindex(cells.index).fillna("-")
        best[column] = cells.index.isin(_unbeaten(values[values["method"] != DENSE]))
    if rows["irregularities"].ne("").any():
        cells["irregularities"] = rows["irregularities"].replace("", "-")
        best["irregularities"] = False
    return str(model), cells.rename(columns=HEADINGS), best.rename(columns=HEADINGS)


def _unbeaten(values: pd.DataFrame) -> pd.Index:
    """Rows to which no other is both better and at most as large, by the bits a weight that the table shows."""
    sizes = values["bits_per_weight"].round(2)
    beaten = [
        bool(((sizes <= size) & (values["value"] < value)).any())
        for size, value in zip(sizes, values["value"], strict=True)
    ]
    return values.index[[not row for row in beaten]]


def _value_columns(part: pd.DataFrame) -> pd.Series:
    """``perplexity wiki_sample@512``, with the token hash where that protocol was run on more than one."""
    name = part["metric"] + " " + part["protocol"]
    several = part.groupby(["metric", "protocol"])["token_hash"].transform("nunique") > 1
    return name.where(~several, name + " #" + part["token_hash"].str[:8])


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.2f}" if error is None or pd.isna(error) else f"{value:.2f} ± {error:.2f}"


def _section(model: str, cells: pd.DataFrame, best: pd.DataFrame, form: Format) -> str:
    if form == "tex":
        return _latex(model, cells, best)
    mark = (lambda text: f"**{text}**") if form == "md" else (lambda text: f"{text} *")
    marked = cells.mask(best, cells.map(mark))
    if form == "md":
        marked = marked.map(lambda text: text.replace("|", r"\|"))
    body = tabulate(
        marked.values.tolist(),
        headers=list(marked.columns),
        tablefmt="github" if form == "md" else "simple",
        disable_numparse=True,
    )
    return f"### {model}\n\n{body}\n" if form == "md" else f"{model}\n{body}\n"


def _latex(model: str, cells: pd.DataFrame, best: pd.DataFrame) -> str:
    styler = (
        cells.reset_index(drop=True)
        .style.hide(axis="index")
        .format(escape="latex")
        .format_index(escape="latex", axis=1)
    )
    bold = best.reset_index(drop=True).map(lambda is_best: "textbf:--rwrap;" if is_best else "")
    caption = re.sub(r"([_&%$#{}])", r"\\\1", model)
    return styler.apply(lambda _: bold, axis=None).to_latex(hrules=True, caption=caption)


def _legend(form: Format) -> str:
    if form == "tex":
        return ""
    mark = "bold" if form == "md" else "*"
    return (
        f"\n{mark}: no other compressed model of its column is both better and at most as large (bits). "
        "±: standard error over windows.\nbits: per compressed weight as stored. model bits: per parameter of the "
        "whole model. MB: 10^6 bytes of all its tensors.\n"
    )
