"""The values of records window by window and item by item, paired for tests."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nowag_exp.evaluation import Metric
from nowag_exp.evaluation.significance import Difference, Units, difference, mean_difference, with_spread
from nowag_exp.records.items import load_items
from nowag_exp.records.record import RunRecord

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


def compare(a: Measured, b: Measured) -> Difference | None:
    """How ``b`` differs from ``a`` on the same windows or items; of perplexity, in nats of its log.

    ``None`` if there are fewer than two of them.
    """
    found = compare_strata(a.strata(), b.strata())
    return None if found is None else with_spread(found, a.seed_means(), b.seed_means())


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
