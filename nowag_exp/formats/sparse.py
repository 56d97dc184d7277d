"""A pruned weight: where the kept values are, and the kept values in 16 bits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from nowag_exp.formats.base import DTYPES, CompressedWeight, FormatError, TensorSpec
from nowag_exp.formats.positions import pack_positions, positions_size, unpack_positions


def half_dtype(dtype: torch.dtype) -> torch.dtype:
    """The 16-bit type in which values of a model are stored: its own, or fp16 if it has none."""
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float16


@dataclass(frozen=True)
class SparseWeight(CompressedWeight):
    """Positions and kept values.

    Unstructured at 50% this is 1 + 8 = 9 bits a weight, 2:4 is 0.75 + 8. A model in float32 has its kept values
    rounded to float16, and is evaluated on these.

    Attributes:
        pattern: ``unstructured`` (a bitmask) or ``N:M``; see :mod:`nowag_exp.formats.positions`.
        dtype: of the values: ``float16`` or ``bfloat16``.
        n_kept: how many there are.
        positions: packed.
        values: in row-major order.
    """

    kind = "sparse"
    tensor_names = ("positions", "values")

    pattern: str
    dtype: str
    n_kept: int
    positions: UInt8[Tensor, " bytes"]
    values: Float[Tensor, " kept"]

    @classmethod
    def from_mask(
        cls, weight: Float[Tensor, "d_out d_in"], keep: Bool[Tensor, "d_out d_in"], pattern: str, dtype: torch.dtype
    ) -> "SparseWeight":
        """Hold the values of ``weight`` where ``keep`` is true, in ``dtype``."""
        values = _kept(weight.to(dtype), keep)
        name = str(dtype).removeprefix("torch.")
        d_out, d_in = weight.shape
        return cls(d_out, d_in, pattern, name, len(values), pack_positions(keep, pattern), values)

    @classmethod
    def specs(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        n_bytes = positions_size(layout["d_out"] * layout["d_in"], layout["pattern"])
        return {
            "positions": TensorSpec(torch.uint8, (n_bytes,)),
            "values": TensorSpec(DTYPES[layout["dtype"]], (layout["n_kept"],)),
        }

    def mask(self) -> Bool[Tensor, "{self.d_out} {self.d_in}"]:
        """True where a weight is kept."""
        return kept_positions(self.positions, self.pattern, self.shape, self.n_kept)

    def decompress(self) -> Float[Tensor, "{self.d_out} {self.d_in}"]:
        dense, mask = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device), self.mask()
        if dense.device.type != "cpu":
            return dense.masked_scatter_(mask, self.values)
        flat = dense.view(-1).view(torch.int16).numpy()
        flat[np.flatnonzero(mask.numpy())] = self.values.view(torch.int16).numpy()
        return dense

    @property
    def n_nonzero(self) -> int:
        return self.n_kept


def _kept(weight: Float[Tensor, "d_out d_in"], keep: Bool[Tensor, "d_out d_in"]) -> Float[Tensor, " kept"]:
    """The 16-bit values of a weight where a mask is true; on a CPU by numpy, in a tenth of torch's time."""
    if weight.device.type != "cpu":
        return weight[keep]
    flat = weight.contiguous().view(-1).view(torch.int16).numpy()
    return torch.from_numpy(np.compress(keep.reshape(-1).numpy(), flat)).view(weight.dtype)


def kept_positions(
    positions: UInt8[Tensor, " bytes"], pattern: str, shape: tuple[int, int], n_kept: int
) -> Bool[Tensor, "d_out d_in"]:
    """Unpack positions and hold them against the number of values.

    Raises:
        FormatError: if they are damaged.
    """
    try:
        mask = unpack_positions(positions, pattern, *shape)
    except ValueError as error:
        raise FormatError(f"positions: {error}") from error
    if (n_marked := int(torch.count_nonzero(mask))) != n_kept:
        raise FormatError(f"positions mark {n_marked} weights, but there are {n_kept} values")
    return mask
