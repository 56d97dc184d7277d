"""Magnitude pruning over the whole matrix, as in the baselines of Wanda (arXiv 2306.11695)."""

from jaxtyping import Float
from torch import Tensor

from nowag_exp.methods.base import Needs, SiteStatistics
from nowag_exp.methods.pruning import Pruner
from nowag_exp.ops.scores import magnitude_score
from nowag_exp.settings import settings


@settings
class Magnitude(Pruner):
    """Keeps the largest ``|W_ij|``."""

    version = 2
    needs = Needs.NOTHING

    def score(
        self, weight: Float[Tensor, "d_out d_in"], statistics: SiteStatistics | None
    ) -> Float[Tensor, "d_out d_in"]:
        return magnitude_score(weight)
