"""Rounded weights: integers of a few bits, with a scale and a zero for each group of columns in each row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float16, Integer, UInt8
from torch import Tensor

from nowag_exp.formats.base import CompressedWeight, TensorSpec
from nowag_exp.formats.positions import pack_positions, positions_size
from nowag_exp.formats.sparse import kept_positions
from nowag_exp.ops.packing import pack, packed_size, unpack


@dataclass(frozen=True)
class IntegerWeight(CompressedWeight):
    """``Ŵ_ij = (code_ij - zero_ig) · scale_ig`` with ``g = j // group_size``, computed in fp32.

    Attributes:
        bits_per_code: of a code and of a zero.
        group_size: columns that share a scale; ``d_in`` for one scale a row.
        symmetric: every zero is ``2**(bits_per_code - 1)`` and none is stored.
        codes: packed, in row-major order.
        scales: one for each row and group.
        zeros: packed, in row-major order.
    """

    kind = "integer"
    tensor_names = ("codes", "scales", "zeros")

    bits_per_code: int
    group_size: int
    symmetric: bool
    codes: UInt8[Tensor, " bytes_of_codes"]
    scales: Float16[Tensor, "d_out groups"]
    zeros: UInt8[Tensor, " bytes_of_zeros"] | None

    @classmethod
    def of(
        cls,
        codes: UInt8[Tensor, "d_out d_in"],
        scales: Float[Tensor, "d_out groups"],
        zeros: Integer[Tensor, "d_out groups"],
        bits: int,
        symmetric: bool,
    ) -> "IntegerWeight":
        """Pack codes; the scales are values that fp16 holds exactly."""
        d_out, d_in = codes.shape
        packed_zeros = None if symmetric else pack(zeros.reshape(-1), bits)
        group_size = d_in // scales.shape[1]
        return cls(d_out, d_in, bits, group_size, symmetric, pack(codes.reshape(-1), bits), scales.half(), packed_zeros)

    @classmethod
    def specs(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        d_out, d_in, bits = layout["d_out"], layout["d_in"], layout["bits_per_code"]
        return {
            "codes": TensorSpec(torch.uint8, (packed_size(d_out * d_in, bits),)),
            **_grid_specs(d_out, d_in, layout["group_size"], bits, layout["symmetric"]),
        }

    def decompress(self) -> Float[Tensor, "{self.d_out} {self.d_in}"]:
        return self.centred_codes().float().mul_(self.scales.float().repeat_interleave(self.group_size, dim=1))

    def centred_codes(self) -> Integer[Tensor, "{self.d_out} {self.d_in}"]:
        """``code - zero``."""
        codes = unpack(self.codes, self.bits_per_code, self.d_out * self.d_in).reshape(self.shape)
        return codes.sub_(self.unpacked_zeros().repeat_interleave(self.group_size, dim=1))

    def unpacked_zeros(self) -> Integer[Tensor, "{self.d_out} groups"]:
        """One for each row and group."""
        return _unpacked_zeros(self.zeros, self.scales, self.bits_per_code)

    @property
    def n_nonzero(self) -> int:
        return self.d_out * self.d_in


@dataclass(frozen=True)
class SparseIntegerWeight(CompressedWeight):
    """A pruned weight whose kept values are rounded: :class:`IntegerWeight` with the codes of the kept ones alone.

    At 50% and 4 bits this is 1 + 2 = 3 bits a weight, and the grid.

    Attributes:
        pattern: ``unstructured`` or ``N:M``.
        n_kept: how many there are.
        bits_per_code: of a code and of a zero.
        group_size: columns that share a scale; ``d_in`` for one scale a row.
        symmetric: every zero is ``2**(bits_per_code - 1)`` and none is stored.
        positions: packed.
        codes: of the kept weights, packed, in row-major order.
        scales: one for each row and group.
        zeros: packed, in row-major order.
    """

    kind = "sparse_integer"
    tensor_names = ("positions", "codes", "scales", "zeros")

    pattern: str
    n_kept: int
    bits_per_code: int
    group_size: int
    symmetric: bool
    positions: UInt8[Tensor, " bytes_of_positions"]
    codes: UInt8[Tensor, " bytes_of_codes"]
    scales: Float16[Tensor, "d_out groups"]
    zeros: UInt8[Tensor, " bytes_of_zeros"] | None

    @classmethod
    def of(
        cls,
        codes: UInt8[Tensor, "d_out d_in"],
        scales: Float[Tensor, "d_out groups"],
        zeros: Integer[Tensor, "d_out groups"],
        bits: int,
        symmetric: bool,
        keep: Bool[Tensor, "d_out d_in"],
        pattern: str,
    ) -> "SparseIntegerWeight":
        """Pack the codes where ``keep`` is true; the scales are values that fp16 holds exactly."""
        d_out, d_in = codes.shape
        kept = codes[keep]
        return cls(
            d_out=d_out,
            d_in=d_in,
            pattern=pattern,
            n_kept=len(kept),
            bits_per_code=bits,
            group_size=d_in // scales.shape[1],
            symmetric=symmetric,
            positions=pack_positions(keep, pattern),
            codes=pack(kept, bits),
            scales=scales.half(),
            zeros=None if symmetric else pack(zeros.reshape(-1), bits),
        )

    @classmethod
    def specs(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        d_out, d_in, bits = layout["d_out"], layout["d_in"], layout["bits_per_code"]
        return {
            "positions": TensorSpec(torch.uint8, (positions_size(d_out * d_in, layout["pattern"]),)),
            "codes": TensorSpec(torch.uint8, (packed_size(layout["n_kept"], bits),)),
            **_grid_specs(d_out, d_in, layout["group_size"], bits, layout["symmetric"]),
        }

    def decompress(self) -> Float[Tensor, "{self.d_out} {self.d_in}"]:
        mask = kept_positions(self.positions, self.pattern, self.shape, self.n_kept)
        zeros = _unpacked_zeros(self.zeros, self.scales, self.bits_per_code)
        # A removed weight has the code of zero.
        codes = zeros.repeat_interleave(self.group_size, dim=1)
        centred = codes.masked_scatter(mask, unpack(self.codes, self.bits_per_code, self.n_kept)) - codes
        return centred.float().mul_(self.scales.float().repeat_interleave(self.group_size, dim=1))

    @property
    def n_nonzero(self) -> int:
        return self.n_kept


def _grid_specs(d_out: int, d_in: int, group_size: int, bits: int, symmetric: bool) -> dict[str, TensorSpec]:
    if d_in % group_size:
        raise ValueError(f"group_size {group_size} does not divide {d_in} columns")
    n_groups = d_in // group_size
    specs = {"scales": TensorSpec(torch.float16, (d_out, n_groups))}
    if not symmetric:
        specs["zeros"] = TensorSpec(torch.uint8, (packed_size(d_out * n_groups, bits),))
    return specs


def _unpacked_zeros(
    zeros: UInt8[Tensor, " bytes"] | None, scales: Float16[Tensor, "d_out groups"], bits: int
) -> Integer[Tensor, "d_out groups"]:
    if zeros is None:
        return torch.full(scales.shape, 1 << (bits - 1), dtype=torch.int32, device=scales.device)
    return unpack(zeros, bits, scales.numel()).reshape(scales.shape)
