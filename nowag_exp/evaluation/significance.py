"""Is the difference of two models real? Paired tests: both were measured on the same windows or items."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Units = Float[np.ndarray, " n"]
"""One value a window or item."""

LEVEL = 0.05
"""Two-sided; below it a difference is called real."""


@dataclass(frozen=True)
class Difference:
    """How much larger the second of two paired means is.

    Attributes:
        value: mean of ``b - a``.
        standard_error: of ``value``.
        p_value: probability of a difference at least as large, in either direction, if there were none.
        test: name of the test.
        n: windows or items.
    """

    value: float
    standard_error: float
    p_value: float
    test: str
    n: int


def difference(a: Units, b: Units) -> Difference | None:
    """Test whether ``b`` differs from ``a``, unit by unit; ``None`` for fewer than two units.

    Outcomes that are all 0 or 1 are tested by McNemar's exact test: of the units on which only one of both is 1, the
    number for ``b`` is binomial with p = 1/2 if neither is better. Other values by the paired t test.
    """
    if len(a) < 2:
        return None
    gaps = b - a
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    if set(np.unique(a)) | set(np.unique(b)) <= {0, 1}:
        return Difference(mean, error, _mcnemar(gaps), "McNemar, exact", len(gaps))
    return Difference(mean, error, _t_test(mean, error, len(gaps) - 1), "paired t", len(gaps))


def mean_difference(parts: Sequence[Difference]) -> Difference:
    """Of the unweighted mean over tasks, from the differences on each: error ``√(Σ e²) / k``, normal approximation."""
    from scipy.stats import norm

    value = math.fsum(part.value for part in parts) / len(parts)
    error = math.sqrt(math.fsum(part.standard_error**2 for part in parts)) / len(parts)
    p_value = 2 * float(norm.sf(abs(value) / error)) if error > 0 else float(value == 0)
    return Difference(value, error, p_value, "z of the mean", sum(part.n for part in parts))


def with_spread(found: Difference, a: Sequence[float], b: Sequence[float]) -> Difference:
    """Widen a difference of means over seeds by how much the seeds scatter.

    ``e² + s_a² / n_a + s_b² / n_b`` with ``s²`` the sample variance of the seeds' means; the t test then has as many
    degrees of freedom as there are seeds beyond one a side (conservative: the windows have more).

    Args:
        found: between the means over the seeds of each side.
        a: the seeds' means of the first side.
        b: and of the second.
    """
    seeds = [side for side in (a, b) if len(side) > 1]
    if not seeds:
        return found
    variance = found.standard_error**2 + sum(float(np.var(side, ddof=1)) / len(side) for side in seeds)
    freedom = sum(len(side) - 1 for side in seeds)
    error = math.sqrt(variance)
    return Difference(found.value, error, _t_test(found.value, error, freedom), f"{found.test}, and seeds", found.n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment: below the level, the chance of a single false claim among all of them is below it, too.

    The ``i``-th smallest of ``m`` values (from 0) is multiplied by ``m - i``; none falls below one before it.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _mcnemar(gaps: Units) -> float:
    from scipy.stats import binomtest

    gained, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _t_test(mean: float, error: float, freedom: int) -> float:
    from scipy.stats import t

    if error == 0:
        return float(mean == 0)
    return 2 * float(t.sf(abs(mean) / error, freedom))
