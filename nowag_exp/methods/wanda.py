"""Wanda (Sun et al., arXiv 2306.11695)."""

from jaxtyping import Float
from torch import Tensor

from nowag_exp.methods.base import Needs, SiteStatistics, required
from nowag_exp.methods.pruning import Pruner
from nowag_exp.ops.scores import wanda_score
from nowag_exp.settings import settings


@settings
class Wanda(Pruner):
    """Keeps the largest ``|W_ij| · ‖X_j‖₂`` of each output row (equation 1)."""

    version = 2
    needs = Needs.DIAGONAL
    rows_compete_apart = True

    def score(
        self, weight: Float[Tensor, "d_out d_in"], statistics: SiteStatistics | None
    ) -> Float[Tensor, "d_out d_in"]:
        return wanda_score(weight, required(statistics).input_norms)
