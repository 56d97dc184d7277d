"""Codebook lookup in plain torch: what the compiled kernels are tested against, and what runs where they cannot."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nowag_exp.ops.codebook import Packed
from nowag_exp.ops.packing import unpack


def dense(weight: Packed, dtype: torch.dtype) -> Float[Tensor, "d_out d_in"]:
    """See :func:`nowag_exp.ops.codebook.dense`."""
    indices = unpack(weight.indices, weight.index_bits, weight.d_out * weight.n_groups)
    values = weight.codebook.float()[indices].reshape(weight.d_out, -1)[:, : weight.d_in]
    if weight.row_norms is not None and weight.column_norms is not None:
        values = values * weight.row_norms.float()[:, None] * weight.column_norms.float()
    return values.to(dtype).contiguous()


def product(weight: Packed, activations: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
    """See :func:`nowag_exp.ops.codebook.product`; this one does form ``Ŵ``."""
    return F.linear(activations.float(), dense(weight, torch.float32)).to(activations.dtype)
