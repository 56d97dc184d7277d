"""What NoWag-VQ and plain weighted k-means share: subvectors, one codebook a matrix, and the format that holds it."""

import zlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nowag_exp.formats import CodebookWeight, CompressedWeight, count_bits
from nowag_exp.ledger import Ledger
from nowag_exp.methods.base import Method, Propagate, SiteStatistics
from nowag_exp.ops.kmeans import assign, kmeans, subvector_weights, subvectors
from nowag_exp.ops.packing import MAX_WIDTH
from nowag_exp.settings import Seed, settings


class Target(NamedTuple):
    """What is quantized: ``Σ_ij (values - Ŵ)²_ij · importance_j`` is made small.

    Attributes:
        values: the weight, or the normalised weight.
        importance: of each input.
        row_norms: what undoes the normalisation; ``None`` without one.
        column_norms: the same for columns.
    """

    values: Float[Tensor, "d_out d_in"]
    importance: Float[Tensor, " d_in"]
    row_norms: Float[Tensor, " d_out"] | None
    column_norms: Float[Tensor, " d_in"] | None


LONGEST = 16
"""Longer subvectors have less than 1 bit a weight, and kernels are compiled for each length."""


@settings
class VectorQuantizer(Method):
    """Clusters the subvectors of a matrix by weighted k-means and stores, for each, which codeword is nearest.

    An input that was 0 on every calibration token has no weight in the objective, so its values are whatever the
    codewords have there; such inputs are in the ledger.

    Attributes:
        d: length of a subvector, 1 to 16: so many consecutive inputs of one row.
        bits: of index a weight; the codebook has ``2**(d·bits)`` codewords.
        init: ``kmeans++`` (arXiv 2504.14569 uses it) or ``random``.
        restarts: runs of k-means from different starts; the one of lowest loss is kept.
        iterations: Lloyd steps at most; fewer if no assignment changes any more.
        tolerance: also stop when a step lowers the loss by less than this fraction; 0 for not.
        seed: of the starts. Each linear has its own stream, so no linear depends on another.
    """

    name: str
    propagate: Propagate
    d: int
    bits: float
    init: Literal["kmeans++", "random"]
    restarts: int
    iterations: int
    tolerance: float
    seed: Seed

    def __post_init__(self) -> None:
        if not 1 <= self.d <= LONGEST:
            raise ValueError(f"d: must be from 1 to {LONGEST}; got {self.d}")
        for setting in ("restarts", "iterations"):
            if getattr(self, setting) < 1:
                raise ValueError(f"{setting}: must be at least 1; got {getattr(self, setting)}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance: must be in [0, 1), a fraction of the loss; got {self.tolerance:g}")
        index_bits = self.d * self.bits
        # Thirds and sevenths are typed with a few digits.
        if not 1 <= round(index_bits) <= MAX_WIDTH or abs(index_bits - round(index_bits)) > 1e-4:
            raise ValueError(
                f"bits: d * bits must be a whole number of index bits from 1 to {MAX_WIDTH}; "
                f"{self.d} * {self.bits!r} is {index_bits!r}; with d={self.d} bits can be {_choices(self.d)}"
            )

    @property
    def index_bits(self) -> int:
        """Bits of one index."""
        return round(self.d * self.bits)

    @property
    @abstractmethod
    def stores_norms(self) -> bool:
        """Whether norms are stored beside the codebook."""

    def count_bits(self, d_out: int, d_in: int) -> int:
        layout = {
            "d_out": d_out,
            "d_in": d_in,
            "d": self.d,
            "index_bits": self.index_bits,
            "normalised": self.stores_norms,
        }
        return count_bits(CodebookWeight.specs(layout))

    @abstractmethod
    def target(self, weight: Float[Tensor, "d_out d_in"], statistics: SiteStatistics | None) -> Target:
        """What to quantize, and how much an error at each input costs."""

    def compress(
        self, weights: Mapping[str, Float[Tensor, "..."]], statistics: SiteStatistics | None, ledger: Ledger
    ) -> dict[str, CompressedWeight]:
        return {
            linear: self._quantize(linear, self.target(weight, statistics), ledger)
            for linear, weight in weights.items()
        }

    def _quantize(self, linear: str, target: Target, ledger: Ledger) -> CodebookWeight:
        points = subvectors(target.values, self.d)
        metric = subvector_weights(target.importance, self.d)
        found = kmeans(
            points,
            metric,
            1 << self.index_bits,
            init=self.init,
            restarts=self.restarts,
            iterations=self.iterations,
            tolerance=self.tolerance,
            generator=np.random.default_rng([self.seed, zlib.crc32(linear.encode())]),
        )
        # The nearest codeword among those that are stored, which are rounded to fp16.
        codebook = found.codewords.half()
        nearest, _ = assign(points, metric, codebook.float())
        if found.n_reseeded:
            ledger.add("empty_codewords", linear, "times one was moved to a badly served subvector", found.n_reseeded)
        if n_unused := len(codebook) - len(torch.unique(nearest)):
            ledger.add("empty_codewords", linear, "no subvector is nearest to in the end", n_unused)
        return CodebookWeight.of(
            target.values.shape[1], nearest.T.contiguous(), codebook, target.row_norms, target.column_norms
        )

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "bits": self.index_bits / self.d}

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> str | None:
        counts = {linear: d_out * -(-d_in // self.d) for linear, (d_out, d_in) in shapes.items()}
        linear, n_subvectors = min(counts.items(), key=lambda count: count[1])
        if n_subvectors < 1 << self.index_bits:
            most = n_subvectors.bit_length() - 1
            return (
                f"bits: d={self.d} and bits={self.bits:g} make {1 << self.index_bits} codewords, but {linear} has only "
                f"{n_subvectors} subvectors of {self.d}; at most 2^{most} = {1 << most} codewords fit it: "
                f"set method.d and method.bits so that d * bits <= {most}"
            )
        return None

    def describe(self) -> str:
        return f"d={self.d} {self.bits:g} bits"


def _choices(d: int) -> str:
    """Bits that a subvector length allows, the common ones."""
    return ", ".join(f"{index_bits / d:g}" for index_bits in range(1, MAX_WIDTH + 1) if index_bits <= 4 * d)
