"""GPTQ (Frantar et al., arXiv 2210.17323)."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from nowag_exp.formats import CompressedWeight, IntegerWeight
from nowag_exp.ledger import Ledger
from nowag_exp.methods.base import SiteStatistics, required
from nowag_exp.methods.rounding import check_grid, describe_grid, group_problem
from nowag_exp.methods.second_order import SecondOrder
from nowag_exp.ops.factor import activation_order
from nowag_exp.ops.grids import Search
from nowag_exp.ops.solver import SEGMENT, Rounding, solve
from nowag_exp.settings import settings


@settings
class GPTQ(SecondOrder):
    """Rounds column by column, the columns to come taking over the error made (algorithm 1).

    Attributes:
        bits: 2 to 8.
        group_size: columns that share a grid in each row; ``null`` for one grid a row.
        symmetric: whether the grid is symmetric about 0; otherwise it spans the weights' range, with an integer zero.
        search: ``minmax`` takes the range as it is, ``mse`` shrinks it to the one of least squared error.
        act_order: take the columns of largest ``H_jj`` first.
        static_groups: fit the grids of all groups on the original weights; otherwise each when its group is reached.
        block_size: columns after which all further columns are corrected at once; changes time and last digits only.
    """

    version = 2

    bits: int
    group_size: int | None
    symmetric: bool
    search: Search
    act_order: bool
    static_groups: bool
    block_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grid(self.bits, self.group_size)
        if not 1 <= self.block_size <= SEGMENT:
            raise ValueError(f"block_size: must be from 1 to {SEGMENT} columns; got {self.block_size}")
        if self.act_order and self.group_size is not None and not self.static_groups:
            raise ValueError(
                "act_order: with groups it needs method.static_groups=true: a group stays what it is in the stored "
                "order of columns, so none is 'reached' in another order; or set method.group_size=null"
            )

    @property
    def factor_name(self) -> str:
        return super().factor_name + (" by activation" if self.act_order else "")

    def compress(
        self, weights: Mapping[str, Float[Tensor, "..."]], statistics: SiteStatistics | None, ledger: Ledger
    ) -> dict[str, CompressedWeight]:
        seen = required(statistics)
        order = activation_order(seen.hessian_diagonal) if self.act_order else None
        rounding = Rounding(self.bits, self.group_size, self.symmetric, self.search, self.static_groups)
        solutions = solve(
            weights,
            self.factor(weights, seen, order, ledger),
            dead=seen.dead,
            pruning=None,
            rounding=rounding,
            order=order,
            segment=self.block_size,
        )
        compressed: dict[str, CompressedWeight] = {}
        for linear, found in solutions.items():
            assert found.codes is not None
            assert found.grid is not None
            compressed[linear] = IntegerWeight.of(found.codes, found.grid, self.bits, self.symmetric)
        return compressed

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> str | None:
        return group_problem(self.group_size, shapes)

    def describe(self) -> str:
        return describe_grid(self.bits, self.group_size) + (", act-order" if self.act_order else "")
