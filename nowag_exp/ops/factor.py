"""The factor of the Hessian that tells a column loop how to compensate (GPTQ, arXiv 2210.17323, section 3.3).

Optimal brain surgery removes or rounds the weights of a row in order and moves the rest, which needs the inverse of
what remains of ``H`` after every column. The papers read all of these off the upper Cholesky factor ``U`` of the
inverse, ``H⁻¹ = Uᵀ U``. Its inverse ``R = U⁻¹`` is as good and cheaper: ``H = R Rᵀ`` with ``R`` upper triangular is a
Cholesky factorisation that starts from the last column, and where the loop needs ``U`` for some consecutive columns, it
is the inverse of the same block of ``R``.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LADDER_START = 1e-4
"""The dampening to suggest first when none was asked for."""

LADDER_END = 1e6


class NotPositiveDefinite(ValueError):  # noqa: N818
    """The dampened Hessian has no Cholesky factor.

    Attributes:
        suffices: the smallest dampening that helps, of the one asked for times a power of ten; infinite if none does.
    """

    def __init__(self, dampening: float, suffices: float) -> None:
        remedy = f"a dampening of {suffices:g} suffices" if math.isfinite(suffices) else "no dampening helps"
        super().__init__(f"the Hessian is not positive definite with a dampening of {dampening:g}; {remedy}")
        self.suffices = suffices


def hessian_factor(hessian: Float[Tensor, "d_in d_in"], dampening: float) -> Float[Tensor, "d_in d_in"]:
    """The upper triangular ``R`` with ``H + λ I = R Rᵀ``, in fp32.

    ``λ`` is the fraction ``dampening`` of the mean of ``H``'s diagonal, in which inputs that were never active
    (``H_jj = 0``) count as ``H_jj = 1``, as in the papers' programs. The argument is not changed; at most two more
    matrices of its size are held.

    Raises:
        NotPositiveDefinite: if the dampened ``H`` has no such factor.
    """
    factor = _try_factor(hessian, dampening)
    if factor is None:
        raise NotPositiveDefinite(dampening, _sufficient_dampening(hessian, dampening))
    return factor


def activation_order(hessian_diagonal: Float[Tensor, " d_in"]) -> Int64[Tensor, " d_in"]:
    """Columns by descending ``H_jj``, GPTQ's ``act_order``; of equal ones the first first."""
    return torch.argsort(hessian_diagonal, descending=True, stable=True)


def _try_factor(hessian: Float[Tensor, "d_in d_in"], dampening: float) -> Float[Tensor, "d_in d_in"] | None:
    damped = hessian.float().flip((0, 1))  # a copy; the factorisation from the last column is that of the reversed H
    diagonal = damped.diagonal()
    diagonal.masked_fill_(diagonal == 0, 1.0)
    diagonal.add_(dampening * diagonal.mean())
    reversed_factor, info = torch.linalg.cholesky_ex(damped)
    del damped, diagonal
    if info:
        return None
    factor = reversed_factor.flip(
        (0, 1)
    ).contiguous()  # The library's matrix has its columns in rows; kernels read rows.
    return factor if bool(torch.isfinite(factor.sum())) else None


def _sufficient_dampening(hessian: Float[Tensor, "d_in d_in"], dampening: float) -> float:
    tried = 10 * dampening if dampening else LADDER_START
    while tried <= LADDER_END:
        if _try_factor(hessian, tried) is not None:
            return tried
        tried *= 10
    return math.inf
