"""SparseGPT (Frantar and Alistarh, arXiv 2301.00774), with joint rounding."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nowag_exp.formats import CompressedWeight, SparseIntegerWeight, SparseWeight, half_dtype
from nowag_exp.ledger import Ledger
from nowag_exp.methods.base import SiteStatistics, required
from nowag_exp.methods.pruning import check_sparsity, describe_pattern, pattern_problem
from nowag_exp.methods.rounding import check_grid, describe_grid, group_problem
from nowag_exp.methods.second_order import SecondOrder
from nowag_exp.ops.grids import Search
from nowag_exp.ops.solver import Pruning, Rounding, solve
from nowag_exp.patterns import parse_pattern
from nowag_exp.settings import settings


@settings
class SparseGPT(SecondOrder):
    """Prunes column by column, the columns to come taking over the error made (algorithm 1).

    Attributes:
        sparsity: fraction removed, in ``[0, 1)``; ``1 - N/M`` for ``N:M``.
        pattern: ``unstructured`` or ``N:M`` (N kept of each M consecutive inputs).
        block_size: unstructured, the weights of so many columns compete, over all rows.
        bits: also round the kept weights, jointly (section 3.5); ``null`` for not.
        group_size: columns that share a grid in each row; ``null`` for one grid a row. Used with ``bits`` only.
        symmetric: whether the grid is symmetric about 0.
        search: of the grid, ``minmax`` or ``mse``.
    """

    version = 2

    sparsity: float
    pattern: str
    block_size: int
    bits: int | None
    group_size: int | None
    symmetric: bool
    search: Search

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparsity(self.sparsity, self.pattern)
        if self.block_size < 1:
            raise ValueError(f"block_size: must be at least 1 column; got {self.block_size}")
        if self.bits is not None:
            check_grid(self.bits, self.group_size)

    def compress(
        self, weights: Mapping[str, Float[Tensor, "..."]], statistics: SiteStatistics | None, ledger: Ledger
    ) -> dict[str, CompressedWeight]:
        seen, bits = required(statistics), self.bits
        rounding = None
        if bits is not None:
            rounding = Rounding(bits, self.group_size, self.symmetric, self.search, static_groups=False)
        solutions = solve(
            weights,
            self.factor(weights, seen, None, ledger),
            dead=seen.dead,
            pruning=Pruning(self.sparsity, parse_pattern(self.pattern), self.block_size),
            rounding=rounding,
            order=None,
        )
        compressed: dict[str, CompressedWeight] = {}
        for linear, found in solutions.items():
            assert found.mask is not None
            if found.n_tied:
                ledger.add("tied_scores", linear, "removed though a weight of equal score was kept", found.n_tied)
            if bits is None:
                compressed[linear] = SparseWeight.from_mask(
                    found.values, found.mask, self.pattern, half_dtype(weights[linear].dtype)
                )
            else:
                assert found.codes is not None
                assert found.grid is not None
                compressed[linear] = SparseIntegerWeight.of(
                    found.codes, found.grid, bits, self.symmetric, found.mask, self.pattern
                )
        return compressed

    def identity(self) -> dict[str, Any]:
        unused = set() if self.bits else {"group_size", "symmetric", "search"}
        unused |= {"block_size"} if parse_pattern(self.pattern) else set()
        return {name: value for name, value in super().identity().items() if name not in unused}

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> str | None:
        problem = pattern_problem(self.pattern, shapes)
        return problem or (group_problem(self.group_size, shapes) if self.bits is not None else None)

    def describe(self) -> str:
        pattern = describe_pattern(self.pattern, self.sparsity)
        return pattern if self.bits is None else f"{pattern}, {describe_grid(self.bits, self.group_size)}"
