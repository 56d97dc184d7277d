"""What all pruners share: how many weights go, what competes with what, and the format that holds the rest."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from nowag_exp.formats import CompressedWeight, SparseWeight, half_dtype
from nowag_exp.ledger import Ledger
from nowag_exp.methods.base import Method, Propagate, SiteStatistics
from nowag_exp.ops.masks import Selection, n_of_m_mask, rowwise_mask, unstructured_mask
from nowag_exp.patterns import parse_pattern
from nowag_exp.settings import settings


def check_sparsity(sparsity: float, pattern: str) -> None:
    """Check a sparsity and a pattern against each other.

    Raises:
        ValueError: if either is out of range, or they contradict each other.
    """
    n_of_m = parse_pattern(pattern)
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity: must be in [0, 1), the fraction of weights removed; got {sparsity:g}")
    if n_of_m and abs(n_of_m.sparsity - sparsity) > 1e-9:
        raise ValueError(
            f"sparsity: {sparsity:g} contradicts pattern={pattern}, which removes {n_of_m.sparsity:g}; "
            "leave sparsity out (it follows from the pattern)"
        )


def pattern_problem(pattern: str, shapes: Mapping[str, tuple[int, int]]) -> str | None:
    """Say so if the groups of an N:M pattern do not fill the rows of a linear."""
    n_of_m = parse_pattern(pattern)
    for linear, (_, d_in) in shapes.items():
        if n_of_m and d_in % n_of_m.m:
            return (
                f"pattern: {pattern} needs input widths that {n_of_m.m} divides, but {linear} has {d_in} inputs; "
                "choose an M that divides it"
            )
    return None


def describe_pattern(pattern: str, sparsity: float) -> str:
    """``2:4``, or ``50%``."""
    return pattern if parse_pattern(pattern) else f"{100 * sparsity:g}%"


@settings
class Pruner(Method):
    """Scores the weights and keeps the best.

    Attributes:
        sparsity: fraction removed, in ``[0, 1)``; ``1 - N/M`` for ``N:M``.
        pattern: ``unstructured`` or ``N:M`` (N kept of each M consecutive inputs).
    """

    rows_compete_apart: ClassVar[bool] = False
    """Unstructured only: compare within each output row instead of over the whole matrix."""

    name: str
    sparsity: float
    pattern: str
    propagate: Propagate

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, self.pattern)

    @abstractmethod
    def score(
        self, weight: Float[Tensor, "d_out d_in"], statistics: SiteStatistics | None
    ) -> Float[Tensor, "d_out d_in"]:
        """Importance of each weight, fp32; the highest are kept."""

    def select(self, scores: Float[Tensor, "d_out d_in"]) -> Selection:
        """Which weights to keep."""
        n_of_m = parse_pattern(self.pattern)
        if n_of_m:
            return n_of_m_mask(scores, n_of_m.n, n_of_m.m)
        select = rowwise_mask if self.rows_compete_apart else unstructured_mask
        return select(scores, self.sparsity)

    def compress(
        self, weights: Mapping[str, Float[Tensor, "..."]], statistics: SiteStatistics | None, ledger: Ledger
    ) -> dict[str, CompressedWeight]:
        compressed: dict[str, CompressedWeight] = {}
        for linear, weight in weights.items():
            mask, n_tied = self.select(self.score(weight, statistics))
            if n_tied:
                ledger.add("tied_scores", linear, "removed though a weight of equal score was kept", n_tied)
            compressed[linear] = SparseWeight.from_mask(weight, mask, self.pattern, half_dtype(weight.dtype))
        return compressed

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> str | None:
        return pattern_problem(self.pattern, shapes)

    def describe(self) -> str:
        return describe_pattern(self.pattern, self.sparsity)
