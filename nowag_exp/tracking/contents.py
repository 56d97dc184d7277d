"""What every tracker sends of a record, and under which keys."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from nowag_exp.evaluation import Metric
from nowag_exp.ledger import Irregularity
from nowag_exp.records.record import RunRecord

ZERO_SHOT = ("acc", "acc_norm", "flips")
"""Metrics whose protocol is ``SUITE/TASK``; the first is the one that a task's own key stands for."""

LEDGER_COLUMNS = [field.name for field in fields(Irregularity)]


def metric_key(metric: Metric) -> str:
    """``perplexity/wikitext2@4096``, ``zero_shot/SUITE/TASK`` (accuracy), ``zero_shot/SUITE/TASK/acc_norm``."""
    if metric.name not in ZERO_SHOT:
        return f"{metric.name}/{metric.protocol}"
    task = f"zero_shot/{metric.protocol}"
    return task if metric.name == ZERO_SHOT[0] else f"{task}/{metric.name}"


def metrics(record: RunRecord) -> dict[str, float]:
    """What was measured, and standard errors under ``KEY/standard_error``."""
    values = {metric_key(metric): metric.value for metric in record.metrics}
    errors = {
        f"{metric_key(metric)}/standard_error": metric.standard_error
        for metric in record.metrics
        if metric.standard_error is not None
    }
    return values | errors


def numbers(record: RunRecord) -> dict[str, float]:
    """All numbers: metrics, ``compression/...`` (as in the record) and ``costs/STAGE/seconds`` and so on."""
    compression = {name: value for name, value in vars(record.compression).items() if isinstance(value, int | float)}
    stages = {name: vars(cost) for name, cost in record.costs.stages.items()}
    found = dict(_flat({"compression": compression, "costs": stages}))
    return metrics(record) | {key: value for key, value in found.items() if value is not None}


def facts(record: RunRecord) -> dict[str, Any]:
    """Labels, hashes of what went in, versions, commit and machine: ``labels/...``, ``inputs/...``, ``provenance/...``.

    The hash of the tokens that a metric was measured on is under ``KEY/token_hash``.
    """
    parts = {
        "fingerprint": record.fingerprint,
        "schema_version": record.schema_version,
        "labels": asdict(record.labels),
        "inputs": asdict(record.inputs),
        "provenance": record.provenance,
        "costs": {"started_at": record.costs.started_at, "finished_at": record.costs.finished_at},
    }
    return dict(_flat(parts)) | {f"{metric_key(metric)}/token_hash": metric.token_hash for metric in record.metrics}


def ledger_rows(record: RunRecord) -> list[list[Any]]:
    """The ledger under :data:`LEDGER_COLUMNS`."""
    return [list(asdict(entry).values()) for entry in record.irregularities]


def title(record: RunRecord) -> str:
    """Model, method and its settings in a few words."""
    return " ".join(filter(None, [record.labels.model, record.labels.method, record.labels.settings]))


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value
