"""A weight as indices into a codebook: put together again, and multiplied without being put together.

The kernels read the packed bit stream of :mod:`nowag_exp.ops.packing` as it is stored.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from nowag_exp.ops.kernels.choice import computing_on, kernels_for


class Packed(NamedTuple):
    """``Ŵ_ij = codebook[index(i, j // d)]_(j mod d) · r2_i · r1_j``, computed in fp32 in this order.

    Attributes:
        d_out: rows.
        d_in: columns; ``d`` need not divide it, the last codeword of a row is cut off.
        index_bits: width of an index, 0 to 16; there are ``2**index_bits`` codewords.
        indices: packed; row by row, the subvectors of a row from left to right.
        codebook: the codewords.
        row_norms: ``r2``; there are both norms or none of them.
        column_norms: ``r1``.
    """

    d_out: int
    d_in: int
    index_bits: int
    indices: UInt8[Tensor, " bytes"]
    codebook: Float16[Tensor, "codewords d"]
    row_norms: Float16[Tensor, " d_out"] | None
    column_norms: Float16[Tensor, " d_in"] | None

    @property
    def n_groups(self) -> int:
        """Subvectors of a row."""
        return -(-self.d_in // self.codebook.shape[1])


def dense(weight: Packed, dtype: torch.dtype) -> Float[Tensor, "d_out d_in"]:
    """``Ŵ``, rounded to ``dtype``; bit for bit the same by all kernels."""
    with computing_on(weight.indices.device):
        return kernels_for("codebook", weight.indices.device).dense(weight, dtype)


def product(weight: Packed, activations: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
    """``x Ŵᵀ`` for a few rows of activations, as when text is generated; compiled kernels never form ``Ŵ``.

    ``Ŵ`` is not rounded, sums are in fp32, and the result is rounded once, to the data type of the activations. The
    kernels add in different orders: they differ by at most ``2**-20 · Σ_j |x_j Ŵ_ij|`` before they round.
    """
    with computing_on(weight.indices.device):
        return kernels_for("codebook", weight.indices.device).product(weight, activations)
