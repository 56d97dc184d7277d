"""Records that fill every section of a report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nowag_exp.calibration import CompressedLinear
from nowag_exp.evaluation import Metric
from nowag_exp.ledger import Irregularity
from nowag_exp.records.record import Costs, RunRecord, StageCost
from nowag_exp.records.wide import Section, sections
from nowag_exp.report.page import Report, make

HOSTILE = '<script>alert(1)</script> & "x" $\\frac{1}$ _y'
"""A model folder's name."""

LINEARS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
NO_ITEMS = Path("nothing here")
Make = Callable[..., RunRecord]


@pytest.fixture(scope="session")
def vary(make_record: Make) -> Make:
    """A record with the labels, sizes and errors that figures read."""

    def _vary(
        fingerprint: str,
        method: str,
        value: float,
        *,
        pattern: str = "unstructured",
        sparsity: float = 0.5,
        n_sequences: int = 8,
        accuracy: float = 0.5,
        **others: object,
    ) -> RunRecord:
        losses = [value - 1, value + 1, value, value + 0.5, value - 0.5]
        made = make_record(fingerprint, method, losses, **others)
        mean = Metric("acc", "quiz/mean", accuracy, 0.02, "f01", 100, [accuracy] * 5, {})
        if method == "dense":
            return replace(made, metrics=[*made.metrics, mean])
        settings = pattern if ":" in pattern else f"{sparsity:.0%}"
        identity = {
            **made.identity,
            "method": {**made.identity["method"], "pattern": pattern, "sparsity": sparsity},
            "calibration": {**made.identity["calibration"], "n_sequences": n_sequences},
        }
        return replace(
            made,
            identity=identity,
            labels=replace(made.labels, settings=settings, n_sequences=n_sequences),
            metrics=[*made.metrics, mean],
            compression=replace(
                made.compression,
                sparsity=sparsity,
                linears=[
                    CompressedLinear(f"model.layers.{block}.{linear}", (10, 10), 50, "sparse", 875, 0.1 + block / 10)
                    for block in range(3)
                    for linear in LINEARS
                ],
            ),
            costs=Costs(
                "2026-01-01T10:00:00+00:00",
                f"2026-01-02T10:00:{sum(fingerprint.encode()) % 60:02d}+00:00",
                {
                    "load": StageCost(0.5, 10**9, None),
                    "calibration": StageCost(2.0, 2 * 10**9, 10**9, reused=True),
                    "compression": StageCost(3.0, None, None),
                    "evaluation": StageCost(4.0, 10**9, None),
                },
            ),
        )

    return _vary


@pytest.fixture(scope="session")
def study(vary: Make) -> list[RunRecord]:
    """Two models, one of a hostile name; patterns, sizes, seeds, ledger entries and two versions."""
    found = []
    for shift, model in ((0.0, "llama2_7b"), (7.0, HOSTILE)):
        key = f"{shift:.0f}"
        found.append(vary(f"{key}dense", "dense", 5.0 + shift, accuracy=0.8, model=model))
        found += [
            vary(
                f"{key}wanda{seed}{n}", "wanda", 9.0 + shift + seed / 4 - n / 20, n_sequences=n, seed=seed, model=model
            )
            for seed in (0, 1)
            for n in (2, 8, 16)
        ]
        found += [
            vary(f"{key}{method}", method, value + shift, pattern="2:4", bits=8.5, accuracy=0.4, model=model)
            for method, value in (("nowag_p", 12.0), ("magnitude", 99.0))
        ]
        found.append(vary(f"{key}rtn", "rtn", 7.0 + shift, sparsity=0.0, bits=4.25, accuracy=0.7, model=model))
    tied = Irregularity("tied_scores", "model.layers.0.mlp.down_proj", "removed <b>though</b> equal", 3)
    other = {"nowag_exp": "9", "git": {"commit": "abc", "dirty": True}}
    found[-2] = replace(found[-2], irregularities=[tied, tied], provenance=other)
    return found


@pytest.fixture(scope="session")
def of_models(study: list[RunRecord]) -> list[Section]:
    """The study's wide tables."""
    return sections(study, NO_ITEMS)


@pytest.fixture(scope="session")
def report(study: list[RunRecord]) -> Report:
    """Of the study; made once, since its figures take seconds."""
    return make(study, NO_ITEMS, [])
