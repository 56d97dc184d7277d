"""What the README's second table claims, held against ``sweeps/baselines.yaml``: ``make claims``, about 45 minutes.

Runs in ``results/`` and resumes there, so after ``nowag-exp sweep baselines`` it takes seconds.
"""

from pathlib import Path

import pytest

import nowag_exp
from nowag_exp.execution import run_all
from nowag_exp.experiment import Workbench
from nowag_exp.formats import FORMATS
from nowag_exp.progress import Reporter
from nowag_exp.records.record import RunRecord
from nowag_exp.sweep import plan

pytestmark = pytest.mark.claims
ROOT = Path(nowag_exp.__file__).parent.parent


@pytest.fixture(scope="module")
def records() -> list[RunRecord]:
    bench = Workbench()
    planned = plan("baselines", [f"paths.results={ROOT / 'results'}"], bench)
    outcomes = run_all(planned.experiments, bench, Reporter())
    assert all(outcome.record for outcome in outcomes), [outcome.failure for outcome in outcomes]
    return [outcome.record for outcome in outcomes]


@pytest.fixture(scope="module")
def perplexity(records: list[RunRecord]):
    def lookup(method: str, **settings: object) -> float:
        found = [
            record.metrics[0].value
            for record in records
            if record.labels.method == method
            and all(record.config["method"][name] == value for name, value in settings.items())
        ]
        assert len(found) == 1, f"{method} {settings} names {len(found)} records"
        return found[0]

    return lookup


def test_gptq_beats_rtn_at_3_and_2_bits(perplexity) -> None:
    compressed = {"propagate": "compressed"}
    assert perplexity("gptq", bits=3, **compressed) < perplexity("rtn", bits=3)
    for search in ("minmax", "mse"):
        assert perplexity("gptq", bits=2, search=search, **compressed) < perplexity("rtn", bits=2, search=search)


def test_fewer_bits_are_worse(perplexity) -> None:
    for method, settings in (("rtn", {"search": "minmax"}), ("gptq", {"search": "minmax", "propagate": "compressed"})):
        four, three, two = (perplexity(method, bits=bits, **settings) for bits in (4, 3, 2))
        assert four < three < two
    assert perplexity("nowag_vq", bits=4.0) < perplexity("nowag_vq", bits=3.0)
    assert perplexity("nowag_vq", bits=3.0) < min(perplexity("nowag_vq", d=4, bits=2.0), perplexity("nowag_vq", d=6))


def test_nowag_vq_beats_weighted_k_means_and_that_beats_unweighted(perplexity) -> None:
    weighted = perplexity("kmeans_vq", weighted=True)
    assert perplexity("nowag_vq", d=4, bits=2.0) < weighted < perplexity("kmeans_vq", weighted=False)


def test_sparsegpt_beats_magnitude(perplexity) -> None:
    for propagate in ("dense", "compressed"):
        assert perplexity("sparsegpt", bits=None, propagate=propagate) < perplexity("magnitude")


def test_nothing_compressed_is_better_than_the_dense_model(records: list[RunRecord], perplexity) -> None:
    dense = perplexity("dense")
    assert all(record.metrics[0].value > dense for record in records if record.labels.method != "dense")


def test_bits_are_those_of_the_format(records: list[RunRecord]) -> None:
    for record in records:
        bits = {
            linear.format: linear.bits / (linear.shape[0] * linear.shape[1]) for linear in record.compression.linears
        }
        assert set(bits) <= set(FORMATS)
        if record.labels.method == "rtn":
            # b bits a code, and a scale of 16 and a zero of b bits for 64 codes.
            width = record.config["method"]["bits"]
            assert record.compression.bits_per_weight == pytest.approx(width + (16 + width) / 64)
        if record.labels.method in ("magnitude", "wanda", "nowag_p"):
            assert record.compression.bits_per_weight == pytest.approx(9, abs=1e-3)
