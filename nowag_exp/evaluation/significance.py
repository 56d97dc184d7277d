"""Is a difference shown? Paired tests on the same windows or items: of two models, and of two settings over seeds.

What each may claim, and how often it is wrong, is in docs/how-sure.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Units = Float[np.ndarray, " n"]
"""One value a window or item."""

LEVEL = 0.05
"""Two-sided; below it a difference counts as shown."""


@dataclass(frozen=True)
class Difference:
    """How much larger the second of two paired means is.

    Attributes:
        value: mean of ``b - a``.
        standard_error: of ``value``.
        p_value: probability of a difference at least as large, in either direction, if there were none.
        test: name of the test.
        n: windows or items.
        freedom: degrees of freedom of the t test; infinite for a normal approximation.
        n_discordant: of McNemar's test, the items on which only one of both is 1; ``None`` for every other test.
    """

    value: float
    standard_error: float
    p_value: float
    test: str
    n: int
    freedom: float
    n_discordant: int | None = None

    def smallest_shown(self, level: float = LEVEL) -> float | None:
        """Return the smallest difference that this test would have shown, with the scatter that it found.

        ``t(1 - level / 2, freedom) · standard_error``; of McNemar's test the smallest excess of one side's items that
        its discordant items allow, over all items. ``None`` if no difference could have been shown: too few discordant
        items.
        """
        if self.n_discordant is None:
            from scipy.stats import t

            return float(t.isf(level / 2, self.freedom)) * self.standard_error
        excesses = range(self.n_discordant % 2, self.n_discordant + 1, 2)
        shown = (k for k in excesses if _binomial((self.n_discordant + k) // 2, self.n_discordant) < level)
        smallest = next(shown, None)
        return None if smallest is None else smallest / self.n


def difference(a: Units, b: Units) -> Difference | None:
    """Test whether ``b`` differs from ``a``, unit by unit; ``None`` for fewer than two units.

    Outcomes that are all 0 or 1 are tested by McNemar's exact test: of the units on which only one of both is 1, the
    number for ``b`` is binomial with p = 1/2 if neither is better. Other values by the paired t test. Both say that two
    models differ, and nothing of what other seeds would give.
    """
    if len(a) < 2:
        return None
    gaps = b - a
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    freedom = float(len(gaps) - 1)
    if set(np.unique(a)) | set(np.unique(b)) <= {0, 1}:
        gained, n_discordant = int((gaps > 0).sum()), int((gaps != 0).sum())
        p_value = _binomial(gained, n_discordant)
        return Difference(mean, error, p_value, "McNemar, exact", len(gaps), freedom, n_discordant)
    return Difference(mean, error, _t_test(mean, error, freedom), "paired t", len(gaps), freedom)


def mean_difference(parts: Sequence[Difference]) -> Difference:
    """Test the unweighted mean over tasks, from the differences on each.

    Error ``√(Σ e²) / k``, normal approximation.
    """
    value = math.fsum(part.value for part in parts) / len(parts)
    error = math.sqrt(math.fsum(part.standard_error**2 for part in parts)) / len(parts)
    p_value = _t_test(value, error, math.inf)
    return Difference(value, error, p_value, "z of the mean", sum(part.n for part in parts), math.inf)


def over_seeds(windows: Difference, seeds: Sequence[Sequence[float]]) -> Difference:
    """Test whether two settings differ, with windows (or items) and seeds both drawn at random, and crossed.

    Error ``√(e² + Σ s² / n)``: ``e`` of the gaps, window by window, between the means over seeds; ``s²`` the sample
    variance of the ``n`` seeds' means of a side that draws at random. What seeds do to single windows is in both, so
    the sum is rather too large. Degrees of freedom: those of Welch and Satterthwaite over the terms, but no more than
    there are seeds beyond one a side. Assumed: seeds are independent draws, means about normal. Sides that share their
    seeds' calibration are correlated positively, as a rule, which makes the test conservative.

    Args:
        windows: difference between the means over the seeds of each side.
        seeds: of each side that draws at random, the mean of each seed; two seeds at least.
    """
    terms = [(windows.standard_error**2, windows.freedom)]
    terms += [(float(np.var(side, ddof=1)) / len(side), len(side) - 1) for side in seeds]
    variance = math.fsum(term for term, _ in terms)
    freedom = math.fsum(len(side) - 1 for side in seeds)
    if variance > 0:
        shares = [(term / variance, own) for term, own in terms]
        freedom = min(freedom, 1 / math.fsum(share**2 / own for share, own in shares))
    error = math.sqrt(variance)
    p_value = _t_test(windows.value, error, freedom)
    return Difference(windows.value, error, p_value, "t over seeds and windows", windows.n, freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values after Holm: below the level, the chance of a single false claim among all is below it, too.

    The ``i``-th smallest of ``m`` values (from 0) is multiplied by ``m - i``; none falls below one before it.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _binomial(gained: int, n: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(gained, n).pvalue) if n else 1.0


def _t_test(mean: float, error: float, freedom: float) -> float:
    from scipy.stats import t

    if error == 0:
        return float(mean == 0)
    return 2 * float(t.sf(abs(mean) / error, freedom))
