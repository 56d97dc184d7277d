"""Round to nearest: the grids of GPTQ without its corrections."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from nowag_exp.formats import CompressedWeight, IntegerWeight
from nowag_exp.ledger import Ledger
from nowag_exp.methods.base import Method, Needs, Propagate, SiteStatistics
from nowag_exp.methods.rounding import check_grid, describe_grid, group_problem
from nowag_exp.ops.grids import Search, fit_grid, quantize
from nowag_exp.settings import settings


@settings
class RTN(Method):
    """Rounds every weight to the nearest value of its grid; looks at no activations.

    Attributes:
        bits: 2 to 8.
        group_size: columns that share a grid in each row; ``null`` for one grid a row.
        symmetric: whether the grid is symmetric about 0; otherwise it spans the weights' range, with an integer zero.
        search: ``minmax`` takes the range as it is, ``mse`` shrinks it to the one of least squared error.
    """

    version = 1
    needs = Needs.NOTHING

    name: str
    propagate: Propagate
    bits: int
    group_size: int | None
    symmetric: bool
    search: Search

    def __post_init__(self) -> None:
        check_grid(self.bits, self.group_size)

    def compress(
        self, weights: Mapping[str, Float[Tensor, "..."]], statistics: SiteStatistics | None, ledger: Ledger
    ) -> dict[str, CompressedWeight]:
        compressed: dict[str, CompressedWeight] = {}
        for linear, weight in weights.items():
            grid = fit_grid(weight, self.bits, self.group_size, self.symmetric, self.search)
            codes = quantize(weight, grid, self.bits, self.group_size)
            compressed[linear] = IntegerWeight.of(codes, grid, self.bits, self.symmetric)
        return compressed

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> str | None:
        return group_problem(self.group_size, shapes)

    def describe(self) -> str:
        return describe_grid(self.bits, self.group_size)
