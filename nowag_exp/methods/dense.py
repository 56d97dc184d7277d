"""No compression: the reference that every table needs."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from nowag_exp.formats import CompressedWeight, DenseWeight
from nowag_exp.ledger import Ledger
from nowag_exp.methods.base import Method, Needs, Propagate, SiteStatistics
from nowag_exp.settings import settings


@settings
class Dense(Method):
    """Leaves every weight alone."""

    version = 1
    needs = Needs.NOTHING

    name: str
    propagate: Propagate

    def compress(
        self, weights: Mapping[str, Float[Tensor, "..."]], statistics: SiteStatistics | None, ledger: Ledger
    ) -> dict[str, CompressedWeight]:
        return {linear: DenseWeight.of(weight) for linear, weight in weights.items()}
