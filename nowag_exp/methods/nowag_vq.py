"""NoWag-VQ (Liu et al., arXiv 2504.14569)."""

from jaxtyping import Float
from torch import Tensor

from nowag_exp.methods.base import Needs, SiteStatistics, required
from nowag_exp.methods.normalising import Normalising
from nowag_exp.methods.vector_quantization import Target, VectorQuantizer
from nowag_exp.ops.normalise import normalise
from nowag_exp.settings import settings


@settings
class NoWagVQ(Normalising, VectorQuantizer):
    """Vector-quantizes the normalised weight: ``Σ_ij (W̄ - Ŵ)²_ij · H_jj`` is made small.

    Not normalised at all this is ``kmeans_vq``, and no norms are stored; of one norm alone the other is stored as ones.
    """

    version = 1
    needs = Needs.DIAGONAL

    @property
    def stores_norms(self) -> bool:
        return self.normalise != "none"

    def target(self, weight: Float[Tensor, "d_out d_in"], statistics: SiteStatistics | None) -> Target:
        importance = required(statistics).hessian_diagonal.float()
        if self.normalise == "none":
            return Target(weight.float(), importance, None, None)
        normalised = normalise(weight, self.normalise)
        return Target(normalised.weight, importance, normalised.row_norms, normalised.column_norms)
