"""Vector quantization without NoWag's normalisation: the other rows of its ablation (arXiv 2504.14569)."""

import torch
from jaxtyping import Float
from torch import Tensor

from nowag_exp.methods.base import Needs, SiteStatistics, required
from nowag_exp.methods.vector_quantization import Target, VectorQuantizer
from nowag_exp.settings import settings


@settings
class KMeansVQ(VectorQuantizer):
    """Vector-quantizes the weight itself: ``Σ_ij (W - Ŵ)²_ij · H_jj`` is made small.

    Attributes:
        weighted: whether errors count by the activations, ``H_jj``; otherwise all count the same, and nothing is
            calibrated.
    """

    version = 1

    weighted: bool

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        return Needs.DIAGONAL if self.weighted else Needs.NOTHING

    @property
    def stores_norms(self) -> bool:
        return False

    def target(self, weight: Float[Tensor, "d_out d_in"], statistics: SiteStatistics | None) -> Target:
        if self.weighted:
            importance = required(statistics).hessian_diagonal.float()
        else:
            importance = torch.ones(weight.shape[1], device=weight.device)
        return Target(weight.float(), importance, None, None)

    def describe(self) -> str:
        return super().describe() + ("" if self.weighted else " unweighted")
