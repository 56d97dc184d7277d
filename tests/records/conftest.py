"""A record without an experiment."""

from collections.abc import Callable

import pytest

from nowag_exp.calibration import CompressedLinear
from nowag_exp.evaluation import Metric
from nowag_exp.records.record import SCHEMA_VERSION, Compression, Costs, Inputs, Labels, RunRecord, StageCost


def record(
    fingerprint: str,
    method: str,
    losses: list[float],
    *,
    model: str = "llama",
    token_hash: str = "f00",
    bits: float = 8.75,
    seed: int = 0,
    metrics: list[Metric] | None = None,
) -> RunRecord:
    """Of a method whose perplexity, for easy sums, is the mean of its losses."""
    dense = method == "dense"
    value = sum(losses) / len(losses)
    calibration = {"text": "t", "seed": seed, "n_sequences": 8, "context_length": 512}
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint,
        identity={
            "model": model,
            "calibration": None if dense else calibration,
            "method": {"class": method, "version": 1, "name": method, "dampening": 0.01},
            "evaluation": {},
        },
        config={"b": [1, None]},
        labels=Labels(
            model=model,
            method=method,
            settings=None if dense else "2:4",
            propagate=None if dense else "dense",
            calibration=None if dense else "wiki_sample",
            n_sequences=None if dense else 8,
            context_length=None if dense else 512,
            seed=None if dense else seed,
        ),
        inputs=Inputs({"config.json": "aa"}, None if dense else "bb"),
        compression=Compression(
            n_weights=100,
            sparsity=0.0 if dense else 0.5,
            bits_per_weight=32.0 if dense else bits,
            n_parameters=150,
            bits_per_parameter=32.0 if dense else 16.5,
            n_bytes=600 if dense else 310,
            linears=[CompressedLinear("x.q_proj", (10, 10), 50, "sparse", 875, 0.25)],
        ),
        metrics=[Metric("perplexity", "wiki_sample@512", value, 0.25, token_hash, len(losses), losses, {})]
        if metrics is None
        else metrics,
        items_sha256=None,
        irregularities=[],
        provenance={"nowag_exp": "0"},
        costs=Costs("2026-01-01", "2026-01-02", {"load": StageCost(0.1, None, None)}),
    )


@pytest.fixture
def make_record() -> Callable[..., RunRecord]:
    return record
