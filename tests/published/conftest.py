"""Rows and records without a paper and without a run."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nowag_exp.published.rows import COLUMNS, Published

ROW: dict[str, str] = {
    "paper": "Wanda (arXiv 2306.11695)",
    "table": "Table 3",
    "model": "llama2_7b",
    "method": "wanda",
    "finetuned": "no",
    "bits": "16",
    "sparsity_pattern": "2:4",
    "context_length": "4096",
    "calibration": "c4 128x4096",
    "metric": "perplexity",
    "dataset_or_task": "wikitext2",
    "value": "11.02",
    "source": "arXiv:2306.11695v2 PDF",
}


def write_rows(path: Path, *rows: dict[str, str]) -> Path:
    """A CSV of rows, each as its differences from ``ROW``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**ROW, **row} for row in rows)
    return path


@pytest.fixture
def row(tmp_path: Path) -> Callable[..., Published]:
    """A published row, by its differences from Wanda's 2:4 on Llama-2-7B."""
    from nowag_exp.published import load_csv

    def _row(**cells: str) -> Published:
        return load_csv(write_rows(tmp_path / "one" / "rows.csv", cells))[0]

    return _row


@pytest.fixture
def record_of() -> Callable[..., Any]:
    """The record that a run with these overrides would leave, but for what it computes."""
    from nowag_exp.compose import compose
    from nowag_exp.config import build_experiment
    from nowag_exp.experiment import _labels
    from nowag_exp.records.record import SCHEMA_VERSION, Compression, Costs, Inputs, RunRecord

    def _record_of(*overrides: str) -> RunRecord:
        experiment = build_experiment(compose(list(overrides)))
        return RunRecord(
            schema_version=SCHEMA_VERSION,
            fingerprint="f" * 16,
            identity={"method": experiment.method.identity()},
            config=experiment.config,
            labels=_labels(experiment),
            inputs=Inputs({}, None),
            compression=Compression(1, 0.0, 16.0, 1, 16.0, 2, []),
            metrics=[],
            items_sha256=None,
            irregularities=[],
            provenance={},
            costs=Costs("", "", {}),
        )

    return _record_of
