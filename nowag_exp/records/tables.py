"""The tidy table: one row a number, from records alone."""

from typing import Any

import pandas as pd

from nowag_exp.ledger import summary
from nowag_exp.records.record import RunRecord
from nowag_exp.records.store import content_key

DENSE = "dense"

CALIBRATION = ("calibration", "n_sequences", "context_length", "seed")
SIZES = ("sparsity", "bits_per_weight", "bits_per_parameter", "megabytes")
SETTING = ("method", "settings", *SIZES, "propagate", *CALIBRATION)
RESULT = ("metric", "protocol", "value", "standard_error", "n", "token_hash", "irregularities", "fingerprint")
COLUMNS = ("model", *SETTING, "method_seed", *RESULT)


def tidy(records: list[RunRecord]) -> pd.DataFrame:
    """One row a metric; dense first, then by sparsity, from large to small, of about equal size the best first."""
    models = _told_apart([record.labels.model for record in records], [record.identity["model"] for record in records])
    calibrations = _told_apart(
        [record.labels.calibration for record in records],
        [_without_columns(record.identity["calibration"]) for record in records],
    )
    named = zip(records, models, calibrations, _settings(records), strict=True)
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
            "method_seed": record.identity["method"].get("seed"),
            "metric": metric.name,
            "protocol": metric.protocol,
            "value": metric.value,
            "standard_error": metric.standard_error,
            "n": metric.n,
            "token_hash": metric.token_hash,
            "irregularities": summary(record.irregularities),
            "fingerprint": record.fingerprint,
        }
        for record, model, calibration, settings in sorted(named, key=lambda row: (str(row[1]), *_rank(row[0])))
        for metric in record.metrics
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        dict.fromkeys(("n_sequences", "context_length", "seed", "method_seed"), "Int64")
    )


def _rank(record: RunRecord) -> tuple[Any, ...]:
    size = record.compression
    first = min(((m.protocol, m.value) for m in record.metrics if m.name == "perplexity"), default=("", 0.0))
    return record.labels.method != DENSE, round(size.sparsity, 2), -(size.bits_per_weight // 1), *first


def _settings(records: list[RunRecord]) -> list[str | None]:
    """The settings of each record; where two rows would look alike, with all settings in which they differ."""
    found: dict[tuple[Any, ...], dict[str, set[str]]] = {}
    keys = [tuple(vars(record.labels).values()) for record in records]
    for key, record in zip(keys, records, strict=True):
        alike = found.setdefault(key, {})
        for name, value in record.identity["method"].items():
            if name != "seed":  # It has a column.
                alike.setdefault(name, set()).add(repr(value))
    texts = []
    for key, record in zip(keys, records, strict=True):
        own = record.identity["method"]
        differing = [name for name in own if len(found[key].get(name, ())) > 1]
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
