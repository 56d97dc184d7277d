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
from nowag_exp.ops.grids import Grid, dequantize
from nowag_exp.ops.packing import pack, packed_size, unpack


@dataclass(frozen=True)
class GridWeight(CompressedWeight):
    """``Ŵ_ij = (code_ij - zero_ig) · scale_ig`` with ``g = j // group_size``, computed in fp32.

    Attributes:
        bits_per_code: of a code and of a zero.
        group_size: columns that share a scale; ``d_in`` for one scale a row.
        symmetric: every zero is ``2**(bits_per_code - 1)`` and none is stored.
        scales: one for each row and group.
        zeros: packed, in row-major order.
    """

    bits_per_code: int
    group_size: int
    symmetric: bool
    scales: Float16[Tensor, "d_out groups"]
    zeros: UInt8[Tensor, " bytes_of_zeros"] | None

    @property
    def grid(self) -> Grid:
        """Scales and zeros, unpacked."""
        if self.zeros is None:
            zeros = torch.full_like(self.scales, 1 << (self.bits_per_code - 1), dtype=torch.int32)
        else:
            zeros = unpack(self.zeros, self.bits_per_code, self.scales.numel()).reshape(self.scales.shape)
        return Grid(self.scales.float(), zeros)

    @staticmethod
    def _stored(grid: Grid, d_in: int, bits: int, symmetric: bool) -> dict[str, Any]:
        """The fields of a grid; its scales are values that fp16 holds exactly."""
        return {
            "bits_per_code": bits,
            "group_size": d_in // grid.scales.shape[1],
            "symmetric": symmetric,
            "scales": grid.scales.half(),
            "zeros": None if symmetric else pack(grid.zeros.reshape(-1), bits),
        }

    @classmethod
    def specs(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        d_out, d_in, group_size = layout["d_out"], layout["d_in"], layout["group_size"]
        if d_in % group_size:
            raise ValueError(f"group_size {group_size} does not divide {d_in} columns")
        n_groups = d_in // group_size
        specs = {"scales": TensorSpec(torch.float16, (d_out, n_groups))}
        if not layout["symmetric"]:
            specs["zeros"] = TensorSpec(torch.uint8, (packed_size(d_out * n_groups, layout["bits_per_code"]),))
        return specs


@dataclass(frozen=True)
class IntegerWeight(GridWeight):
    """Every weight has a code.

    Attributes:
        codes: packed, in row-major order.
    """

    kind = "integer"
    tensor_names = ("codes", "scales", "zeros")

    codes: UInt8[Tensor, " bytes_of_codes"]

    @classmethod
    def of(cls, codes: UInt8[Tensor, "d_out d_in"], grid: Grid, bits: int, symmetric: bool) -> "IntegerWeight":
        """Pack codes and their grid."""
        d_out, d_in = codes.shape
        packed = pack(codes.reshape(-1), bits)
        return cls(d_out=d_out, d_in=d_in, codes=packed, **cls._stored(grid, d_in, bits, symmetric))

    @classmethod
    def specs(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        n_bytes = packed_size(layout["d_out"] * layout["d_in"], layout["bits_per_code"])
        return {"codes": TensorSpec(torch.uint8, (n_bytes,)), **super().specs(layout)}

    def unpacked_codes(self) -> Integer[Tensor, "{self.d_out} {self.d_in}"]:
        """One for each weight."""
        return unpack(self.codes, self.bits_per_code, self.d_out * self.d_in).reshape(self.shape)

    def decompress(self) -> Float[Tensor, "{self.d_out} {self.d_in}"]:
        return dequantize(self.unpacked_codes(), self.grid, self.group_size)

    @property
    def n_nonzero(self) -> int:
        return self.d_out * self.d_in


@dataclass(frozen=True)
class SparseIntegerWeight(GridWeight):
    """A pruned weight whose kept values are rounded: only these have codes.

    At 50% and 4 bits this is 1 + 2 = 3 bits a weight, and the grid.

    Attributes:
        pattern: ``unstructured`` or ``N:M``.
        n_kept: how many there are.
        positions: packed.
        codes: of the kept weights, packed, in row-major order.
    """

    kind = "sparse_integer"
    tensor_names = ("positions", "codes", "scales", "zeros")

    pattern: str
    n_kept: int
    positions: UInt8[Tensor, " bytes_of_positions"]
    codes: UInt8[Tensor, " bytes_of_codes"]

    @classmethod
    def of(
        cls,
        codes: UInt8[Tensor, "d_out d_in"],
        grid: Grid,
        bits: int,
        symmetric: bool,
        keep: Bool[Tensor, "d_out d_in"],
        pattern: str,
    ) -> "SparseIntegerWeight":
        """Pack the codes where ``keep`` is true, and their grid."""
        d_out, d_in = codes.shape
        kept = codes[keep]
        return cls(
            d_out=d_out,
            d_in=d_in,
            pattern=pattern,
            n_kept=len(kept),
            positions=pack_positions(keep, pattern),
            codes=pack(kept, bits),
            **cls._stored(grid, d_in, bits, symmetric),
        )

    @classmethod
    def specs(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        n_weights = layout["d_out"] * layout["d_in"]
        return {
            "positions": TensorSpec(torch.uint8, (positions_size(n_weights, layout["pattern"]),)),
            "codes": TensorSpec(torch.uint8, (packed_size(layout["n_kept"], layout["bits_per_code"]),)),
            **super().specs(layout),
        }

    def decompress(self) -> Float[Tensor, "{self.d_out} {self.d_in}"]:
        mask = kept_positions(self.positions, self.pattern, self.shape, self.n_kept)
        # A removed weight has the code of zero.
        codes = self.grid.zeros.repeat_interleave(self.group_size, dim=1)
        codes.masked_scatter_(mask, unpack(self.codes, self.bits_per_code, self.n_kept))
        return dequantize(codes, self.grid, self.group_size)

    @property
    def n_nonzero(self) -> int:
        return self.n_kept
