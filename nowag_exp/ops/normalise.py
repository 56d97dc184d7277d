"""NoWag's weight normalisation (arXiv 2504.14569, algorithm 1)."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-5
"""Added to every norm, as in the paper, so that a zero column or row stays zero instead of becoming NaN."""

Normalise = Literal["both", "columns", "rows", "none"]
"""By which norms a weight is divided; all but ``both`` are for ablations."""


class Normalised(NamedTuple):
    """A normalised weight and what undoes it: ``W_ij = W̄_ij · r2_i · r1_j``.

    Attributes:
        weight: ``W̄``, fp32.
        column_norms: ``r1``, one for each input; ones if it was not divided by them.
        row_norms: ``r2``, one for each output; likewise.
    """

    weight: Float[Tensor, "d_out d_in"]
    column_norms: Float[Tensor, " d_in"]
    row_norms: Float[Tensor, " d_out"]


def normalise(weight: Float[Tensor, "d_out d_in"], by: Normalise = "both") -> Normalised:
    """Normalise by column norms, then by the row norms of the result.

    ``r1_j = ‖W[:, j]‖₂ + ε``, ``r2_i = ‖(W / r1)[i, :]‖₂ + ε``, ``W̄_ij = W_ij / (r1_j · r2_i)``
    (arXiv 2504.14569, algorithm 1), computed in fp32. ``columns`` stops after the first step: ``r2_i = 1``; ``rows``
    leaves it out: ``r1_j = 1``, so ``r2_i = ‖W[i, :]‖₂ + ε``; with ``none`` both are 1 and ``W̄ = W``.
    """
    values = weight.float()
    column_norms, row_norms = values.new_ones(values.shape[1]), values.new_ones(values.shape[0])
    if by in ("both", "columns"):
        column_norms = torch.linalg.vector_norm(values, dim=0) + EPSILON
        values = values / column_norms
    if by in ("both", "rows"):
        row_norms = torch.linalg.vector_norm(values, dim=1) + EPSILON
        values = values / row_norms[:, None]
    return Normalised(values, column_norms, row_norms)
