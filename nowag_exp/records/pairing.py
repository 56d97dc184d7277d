"""The values of records window by window and item by item, paired for tests of models and of settings."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nowag_exp.evaluation import Metric
from nowag_exp.evaluation.significance import Difference, Units, difference, mean_difference, over_seeds
from nowag_exp.records.items import load_items
from nowag_exp.records.record import RunRecord
from nowag_exp.records.store import content_key

LOWER_IS_BETTER = {"perplexity", "kl", "flips"}
NOISE_FLOOR = "noise_floor_"
"""Prefix of what the dense model's own arithmetic amounts to."""

MEAN = "mean"
"""Task name of a suite's unweighted mean."""


def is_better(metric: str, value: float, other: float) -> bool:
    """Whether ``value`` of a metric is better than another."""
    return value < other if metric in LOWER_IS_BETTER else value > other


@dataclass(frozen=True)
class Measured:
    """One metric of one record, or of the records of several seeds, and where its windows or items are.

    Attributes:
        results: the folder with the records.
        records: one a seed.
        metrics: of each record; alike but for their values.
    """

    results: Path
    records: Sequence[RunRecord]
    metrics: Sequence[Metric]

    @property
    def name(self) -> str:
        """Of the metric."""
        return self.metrics[0].name

    @functools.cached_property  # A table asks each of its rows against each other one.
    def value(self) -> float:
        """Mean over the seeds."""
        return float(np.mean([metric.value for metric in self.metrics]))

    @property
    def is_random(self) -> bool:
        """Whether another seed would give another value."""
        return bool(seeds_of(self.records[0]))

    def independent(self) -> "Measured":
        """Leave out seeds that share a draw with one before them: of calibration, or of the method."""
        drawn: list[tuple[int, ...]] = []
        kept = []
        for record, metric in zip(self.records, self.metrics, strict=True):
            seeds = seeds_of(record)
            if not any(mine == other for known in drawn for mine, other in zip(seeds, known, strict=True)):
                drawn.append(seeds)
                kept.append((record, metric))
        return Measured(self.results, [record for record, _ in kept], [metric for _, metric in kept])

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; ``None`` for one."""
        values = [metric.value for metric in self.metrics]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def standard_error(self) -> float | None:
        """Over windows or items: of one seed its own, of several the root of the mean square.

        The seeds share their windows, so more of them do not make it smaller.
        """
        errors = [metric.standard_error for metric in self.metrics]
        known = [error for error in errors if error is not None]
        return float(np.sqrt(np.mean(np.square(known)))) if len(known) == len(errors) else None

    def better_than(self, other: "Measured") -> bool:
        """By its value alone."""
        return is_better(self.name, self.value, other.value)

    def strata(self) -> list[Units]:
        """One value a window or item, averaged over the seeds; of a mean over tasks, those of each task."""
        seeds = [_strata(self.results, *pair) for pair in zip(self.records, self.metrics, strict=True)]
        return [np.mean(parts, axis=0) for parts in zip(*seeds, strict=True)]

    def seed_means(self) -> list[float]:
        """Mean over windows or items, seed by seed; of perplexity, of the losses."""
        return [
            float(np.mean([part.mean() for part in _strata(self.results, *pair)]))
            for pair in zip(self.records, self.metrics, strict=True)
        ]


@dataclass(frozen=True)
class Evidence:
    """What the tests of two measured values say: of the models, and of the settings that made them.

    Attributes:
        models: the paired test over windows or items, of the means over the seeds that are there.
        settings: over seeds as well; ``models`` if nothing is drawn on either side; ``None`` if it cannot be made.
        untested: why it cannot, in a few words; empty if it can.
    """

    models: Difference
    settings: Difference | None
    untested: str


def weigh(a: Measured, b: Measured) -> Evidence | None:
    """Test how ``b`` differs from ``a`` on the same windows or items; of perplexity, in nats of its log.

    ``None`` if there are fewer than two of them.
    """
    models = compare_strata(a.strata(), b.strata())
    if models is None:
        return None
    untested = _untested(a, b)
    if untested:
        return Evidence(models, None, untested)
    scattered = [side.independent().seed_means() for side in (a, b) if side.is_random]
    return Evidence(models, over_seeds(models, scattered) if scattered else models, "")


def _untested(a: Measured, b: Measured) -> str:
    """Why nothing can be said of the settings; empty if something can."""
    if setting_key(a.records[0]) == setting_key(b.records[0]):
        return "A and B are of one setting"
    single = [side.is_random and len(side.independent().records) == 1 for side in (a, b)]
    if all(single):
        return "one seed each"
    return next((f"one seed of {name}" for name, alone in zip("AB", single, strict=True) if alone), "")


def seeds_of(record: RunRecord) -> tuple[int, ...]:
    """What a result depends on by chance: the seeds of calibration and method; empty if nothing is drawn."""
    parts = (record.identity["calibration"], record.identity["method"])
    return tuple(part["seed"] for part in parts if part and part.get("seed") is not None)


def setting_key(record: RunRecord, with_evaluation: bool = False) -> str:
    """Hash of what records share that differ in seeds alone, and in what was measured unless that is to stay apart."""
    parts = ("model", "method", "calibration", *(["evaluation"] if with_evaluation else []))
    identity = {name: record.identity[name] for name in parts}
    return content_key({name: _without_seed(part) for name, part in identity.items()})


def one_a_seed(records: Iterable[RunRecord], metric: Metric) -> list[tuple[RunRecord, Metric]]:
    """The records that have a metric on the same tokens, each with its own value of it; the first of each seed."""
    found: dict[tuple[int, ...], tuple[RunRecord, Metric]] = {}
    for record in records:
        for own in record.metrics:
            if (own.name, own.protocol, own.token_hash) == (metric.name, metric.protocol, metric.token_hash):
                found.setdefault(seeds_of(record), (record, own))
    return list(found.values())


def _without_seed(part: Any) -> Any:
    return {key: value for key, value in part.items() if key != "seed"} if isinstance(part, dict) else part


def compare_strata(a: Sequence[Units], b: Sequence[Units]) -> Difference | None:
    """How the second differs from the first, stratum by stratum, each of the same windows or items."""
    parts = [difference(*pair) for pair in zip(a, b, strict=True)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return known[0] if len(known) == 1 else mean_difference(known)


def _strata(results: Path, record: RunRecord, metric: Metric) -> list[Units]:
    if metric.values is not None:
        return [np.asarray(metric.values)]
    items = load_items(results, record)
    suite, _, task = metric.protocol.partition("/")
    items = items[items["suite"] == suite]
    if task and task != MEAN:
        items = items[items["task"] == task]
    if task != MEAN:
        return [items[metric.name].to_numpy(dtype=float)]
    return [part[metric.name].to_numpy(dtype=float) for _, part in items.groupby("task", sort=True)]
