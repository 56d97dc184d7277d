"""Eight methods in one sweep that shares what is the same, against eight runs that share nothing.

``sweeps/eight_methods.yaml``: 256 sequences of 512 tokens, a quarter of the tokens of the papers; perplexity and the
distance from the dense model on 16 windows; all methods on dense activations. Each of the eight runs is a process of
its own with an empty folder for results; what is downloaded and converted stays in the cache, and compiled kernels stay
compiled. The floor is the matrix products that the sweep itself cannot spare: one calibration pass, the second moments,
and a pass of the evaluation for each compressed model and one for the dense one.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.children import COMMAND, run_child
from benchmarks.forward import forward_operations
from benchmarks.timing import Comparison, Wanted, Work
from nowag_exp.compose import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.models import SITES, Architecture
from nowag_exp.sweep import expand

SWEEP = "eight_methods"

MOST = 0.45
"""Of the eight runs' seconds that the sweep may take."""


def sweep_work(experiments: list[Experiment]) -> Work:
    """What all of them together cannot spare."""
    sizes = experiments[0].model.sizes()
    calibration = next(each.calibration for each in experiments if each.calibration)
    evaluated = experiments[0].evaluation.perplexities[0]
    windows = evaluated.n_windows or 0, evaluated.context_length
    scored = len(experiments) * forward_operations(sizes, *windows, head=True)
    shape = calibration.n_sequences, calibration.context_length
    collected = forward_operations(sizes, *shape, head=False) + shape[0] * shape[1] * moment_operations(sizes)
    return Work(product=scored + collected)


def moment_operations(sizes: Architecture) -> float:
    """Operations a token of ``Σ x xᵀ`` at all sites; half of each product, since it is symmetric."""
    linears = sizes.linears()
    return sizes.n_blocks * sum(float(linears[site.linears[0]][1]) ** 2 for site in SITES)


def run(bench: Bench) -> Iterator[Comparison]:
    jobs = expand(SWEEP, [])
    experiments = [build_experiment(compose(job)) for job in jobs]
    with tempfile.TemporaryDirectory(prefix="nowag_exp-benchmark-") as name:
        folder = Path(name)
        run_child((*COMMAND, "run", "model=tiny", f"paths.results={folder}/warm"))
        together = run_child((*COMMAND, "sweep", SWEEP, f"paths.results={folder}/together"))
        apart = {
            experiment.describe(): run_child((*COMMAND, "run", *job, f"paths.results={folder}/{number}"))
            for number, (experiment, job) in enumerate(zip(experiments, jobs, strict=True))
        }
    total = sum(cost.seconds for cost in apart.values())
    yield Comparison(
        "8 methods: one sweep, against 8 runs that share nothing",
        together.seconds,
        total,
        (total / together.seconds,),
        sweep_work(experiments).floor(bench.rates),
        Wanted(ratio=round(1 / MOST, 2)),
        details={
            "part of the separate runs": together.seconds / total,
            "the same in processor seconds": together.processor_seconds
            / sum(cost.processor_seconds for cost in apart.values()),
            **{name: cost.seconds for name, cost in apart.items()},
        },
    )
