"""NoWag-VQ (Liu et al., arXiv 2504.14569)."""

from jaxtyping import Float
from torch import Tensor

from nowag_exp.methods.base import Needs, SiteStatistics, required
from nowag_exp.methods.vector_quantization import Target, VectorQuantizer
from nowag_exp.ops.normalise import normalise
from nowag_exp.settings import settings


@settings
class NoWagVQ(VectorQuantizer):
    """Vector-quantizes the normalised weight: ``Σ_ij (W̄ - Ŵ)²_ij · H_jj`` is made small."""

    version = 1
    needs = Needs.DIAGONAL

    @property
    def stores_norms(self) -> bool:
        return True

    def target(self, weight: Float[Tensor, "d_out d_in"], statistics: SiteStatistics | None) -> Target:
        normalised = normalise(weight)
        importance = required(statistics).hessian_diagonal.float()
        return Target(normalised.weight, importance, normalised.row_norms, normalised.column_norms)
