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
    "pattern",
    "sparsity",
    "bits_per_weight",
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
            "calibration": calibration,
            "sparsity": record.compression.sparsity,
            "bits_per_weight": record.compression.bits_per_weight,
            "metric": metric.name,
            "protocol": metric.protocol,
            "value": metric.value,
            "standard_error": metric.standard_error,
            "token_hash": metric.token_hash,
            "irregularities": summary(record.irregularities),
            "fingerprint": record.fingerprint,
        }
        for record, model, calibration in zip(records, models, calibrations, strict=True)
        for metric in record.metrics
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"n_sequences": "Int64", "context_length": "Int64", "seed": "Int64"}
    )
    # Dense first, then unstructured before N:M at each sparsity, and the best method of each on top.
    table["regular"] = table["pattern"].notna() & (table["pattern"] != "unstructured")
    table = table.sort_values(["model", "protocol", "sparsity", "regular", "pattern", "value"], kind="stable")
    return table.drop(columns="regular").reset_index(drop=True)


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
    cells["bits_per_weight"] = [f"{value:.2f}" for value in cells["bits_per_weight"]]
    cells = cells.astype("object").where(cells.notna(), "-").astype(str)
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for column, values in part.groupby("column", sort=True):
        values = values.set_index("fingerprint")
        text = values.apply(lambda row: _with_error(row["value"], row["standard_error"]), axis=1)
        cells[column] = text.reindex(cells.index).fillna("-")
        compressed = values[values["method"] != DENSE]["value"]
        best[column] = cells.index.isin(compressed[compressed == compressed.min()].index)
    if rows["irregularities"].ne("").any():
        cells["irregularities"] = rows["irregularities"].replace("", "-")
        best["irregularities"] = False
    return str(model), cells.rename(columns=HEADINGS), best.rename(columns=HEADINGS)


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
        f"\n{mark}: lowest perplexity of a compressed model in its column. ±: standard error over windows. "
        "bits: per compressed weight as held.\n"
    )
