"""NoWag-P (Liu et al., arXiv 2504.14569)."""

from jaxtyping import Float
from torch import Tensor

from nowag_exp.methods.base import Needs, SiteStatistics, required
from nowag_exp.methods.normalising import Normalising
from nowag_exp.methods.pruning import Pruner
from nowag_exp.ops.scores import nowag_p_score
from nowag_exp.settings import settings


@settings
class NoWagP(Normalising, Pruner):
    """Keeps the largest ``W̄²_ij · H_jj`` of the whole matrix; kept weights keep their value, in 16 bits."""

    version = 2
    needs = Needs.DIAGONAL

    def score(
        self, weight: Float[Tensor, "d_out d_in"], statistics: SiteStatistics | None
    ) -> Float[Tensor, "d_out d_in"]:
        return nowag_p_score(weight, required(statistics).hessian_diagonal, self.normalise)
