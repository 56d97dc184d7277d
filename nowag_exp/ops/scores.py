"""Importance scores: how much it costs to remove a weight. Higher is more important."""

import torch
from jaxtyping import Float
from torch import Tensor

from nowag_exp.ops.normalise import Normalise, normalise


def magnitude_score(weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
    """``|W_ij|``, in fp32."""
    return weight.float().abs()


def wanda_score(
    weight: Float[Tensor, "d_out d_in"], input_norms: Float[Tensor, " d_in"]
) -> Float[Tensor, "d_out d_in"]:
    """``|W_ij| · ‖X_j‖₂`` (Wanda, arXiv 2306.11695, equation 1), in fp32.

    Args:
        weight: the linear's weight.
        input_norms: ``‖X_j‖₂``, the norm of input ``j`` over all calibration tokens.
    """
    return weight.float().abs() * input_norms.float()


def nowag_p_score(
    weight: Float[Tensor, "d_out d_in"], hessian_diagonal: Float[Tensor, " d_in"], by: Normalise = "both"
) -> Float[Tensor, "d_out d_in"]:
    """``W̄²_ij · H_jj`` with ``W̄`` the normalised weight, in fp32: the term that removing the weight adds to NoWag's
    objective ``Σ_ij (W̄ - Ŵ)²_ij · H_jj`` (NoWag-P, arXiv 2504.14569).

    Args:
        weight: the linear's weight.
        hessian_diagonal: ``H_jj = 2/n Σ x_j²`` over ``n`` calibration tokens.
        by: which norms ``W̄`` is divided by.
    """
    return torch.square(normalise(weight, by).weight) * hessian_diagonal.float()
