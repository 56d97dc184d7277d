"""A vector-quantized weight: one codebook, an index for each subvector, and NoWag's norms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float16, Integer, UInt8
from torch import Tensor

from nowag_exp.formats.base import CompressedWeight, TensorSpec
from nowag_exp.ops.codebook import Packed, dense, product
from nowag_exp.ops.packing import pack, packed_size


@dataclass(frozen=True)
class CodebookWeight(CompressedWeight):
    """Row ``i`` is its codewords side by side, cut off at ``d_in``, times its row norm and the column norms.

    ``Ŵ_ij = codebook[index(i, j // d)]_(j mod d) · r2_i · r1_j``, computed in fp32 in this order. Indices take exactly
    ``index_bits`` bits.

    Attributes:
        d: length of a subvector.
        index_bits: the codebook has ``2**index_bits`` codewords.
        normalised: whether there are norms.
        indices: packed; row by row, the subvectors of a row from left to right.
        codebook: the codewords.
        row_norms: ``r2``.
        column_norms: ``r1``.
    """

    kind = "codebook"
    tensor_names = ("indices", "codebook", "row_norms", "column_norms")

    d: int
    index_bits: int
    normalised: bool
    indices: UInt8[Tensor, " bytes"]
    codebook: Float16[Tensor, "codewords d"]
    row_norms: Float16[Tensor, " d_out"] | None
    column_norms: Float16[Tensor, " d_in"] | None

    @classmethod
    def of(
        cls,
        d_in: int,
        indices: Integer[Tensor, "d_out groups"],
        codebook: Float16[Tensor, "codewords d"],
        row_norms: Float[Tensor, " d_out"] | None,
        column_norms: Float[Tensor, " d_in"] | None,
    ) -> "CodebookWeight":
        """Pack the indices, round the norms to fp16."""
        index_bits = (len(codebook) - 1).bit_length()
        return cls(
            len(indices),
            d_in,
            codebook.shape[1],
            index_bits,
            row_norms is not None,
            pack(indices.reshape(-1), index_bits),
            codebook,
            None if row_norms is None else row_norms.half(),
            None if column_norms is None else column_norms.half(),
        )

    @classmethod
    def specs(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        d_out, d_in, d, index_bits = (layout[name] for name in ("d_out", "d_in", "d", "index_bits"))
        specs = {
            "indices": TensorSpec(torch.uint8, (packed_size(d_out * -(-d_in // d), index_bits),)),
            "codebook": TensorSpec(torch.float16, (1 << index_bits, d)),
        }
        if layout["normalised"]:
            specs["row_norms"] = TensorSpec(torch.float16, (d_out,))
            specs["column_norms"] = TensorSpec(torch.float16, (d_in,))
        return specs

    def decompress(self) -> Float[Tensor, "{self.d_out} {self.d_in}"]:
        return self.dense(torch.float32)

    def dense(self, dtype: torch.dtype) -> Float[Tensor, "{self.d_out} {self.d_in}"]:
        return dense(self._packed, dtype)

    def product(self, activations: Float[Tensor, "n {self.d_in}"]) -> Float[Tensor, "n {self.d_out}"]:
        """``x Ŵᵀ`` for a few rows of activations without forming ``Ŵ``: see :func:`nowag_exp.ops.codebook.product`."""
        return product(self._packed, activations)

    @property
    def _packed(self) -> Packed:
        return Packed(
            self.d_out,
            self.d_in,
            self.index_bits,
            self.indices,
            self.codebook,
            self.row_norms,
            self.column_norms,
        )

    @property
    def n_nonzero(self) -> int:
        return self.d_out * self.d_in
