"""What SparseGPT and GPTQ share: the factorised Hessian of an input site, and the column loop over its stacked rows."""

import math
from collections.abc import Mapping
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor

from nowag_exp.errors import NowagError
from nowag_exp.ledger import Ledger
from nowag_exp.methods.base import Method, Needs, Propagate, SiteStatistics
from nowag_exp.ops.factor import NotPositiveDefinite, hessian_factor
from nowag_exp.settings import settings

OnFailure = Literal["raise", "increase_dampening"]


@settings
class SecondOrder(Method):
    """Compresses column by column, and corrects the columns to come for the error made.

    Attributes:
        dampening: fraction of the mean of the Hessian's diagonal that is added to it.
        on_failure: what to do if the dampened Hessian is not positive definite: ``raise``, or ``increase_dampening``
            tenfold until it is, with an entry in the ledger.
    """

    needs = Needs.HESSIAN

    name: str
    propagate: Propagate
    dampening: float
    on_failure: OnFailure

    def __post_init__(self) -> None:
        if self.dampening < 0:
            raise ValueError(
                f"dampening: must be at least 0, a fraction of the mean diagonal such as 0.01; got {self.dampening:g}"
            )

    @property
    def factor_name(self) -> str:
        """What the factor depends on, given the statistics: equal names mean equal factors."""
        return f"dampening={self.dampening!r}"

    def factor(
        self,
        weights: Mapping[str, Float[Tensor, "..."]],
        statistics: SiteStatistics,
        order: Int64[Tensor, " d_in"] | None,
        ledger: Ledger,
    ) -> Float[Tensor, "d_in d_in"]:
        """``R`` with ``H + λI = R Rᵀ``, made once for equal dampening and order.

        Raises:
            NowagError: naming the linears and a dampening that would do, if the Hessian is not positive definite.
        """
        linears = " and ".join(weights)
        known = statistics.factors.get(self.factor_name)
        if known is not None:
            return known.to(statistics.sum_of_squares.device)
        hessian = statistics.hessian if order is None else statistics.hessian[order][:, order]
        try:
            factor = hessian_factor(hessian, self.dampening)
        except NotPositiveDefinite as error:
            failure = f"{linears}: the Hessian of their input is not positive definite"
            if not math.isfinite(error.suffices):
                raise NowagError(f"{failure} with any dampening; check the checkpoint and model.dtype") from error
            if self.on_failure == "raise":
                raise NowagError(
                    f"{failure} with method.dampening={self.dampening:g}; method.dampening={error.suffices:g} would "
                    "do, or set method.on_failure=increase_dampening, or calibrate on more tokens"
                ) from error
            ledger.add("raised_dampening", linears, f"from {self.dampening:g} to {error.suffices:g}")
            return hessian_factor(hessian, error.suffices)
        statistics.factors[self.factor_name] = factor
        return factor
