"""A pruned weight: one bit for each position, and the kept values in the dtype of the model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from nowag_exp.formats.base import CompressedWeight


@dataclass(frozen=True)
class SparseWeight(CompressedWeight):
    """Bitmask and kept values.

    At 50% sparsity in a 16-bit dtype this is 1 + 8 = 9 bits per weight.

    Attributes:
        d_out: rows.
        d_in: columns.
        bitmask: positions in row-major order, eight to a byte, first position in the highest bit.
        values: the kept values in row-major order.
    """

    d_out: int
    d_in: int
    bitmask: UInt8[Tensor, " bytes"]
    values: Float[Tensor, " kept"]

    @classmethod
    def from_mask(cls, weight: Float[Tensor, "d_out d_in"], keep: Bool[Tensor, "d_out d_in"]) -> "SparseWeight":
        """Hold the values of ``weight`` where ``keep`` is true; they keep their value exactly."""
        packed = np.packbits(keep.cpu().numpy().reshape(-1))
        d_out, d_in = weight.shape
        return cls(d_out, d_in, torch.from_numpy(packed).to(weight.device), weight[keep])

    def mask(self) -> Bool[Tensor, "d_out d_in"]:
        """True where a weight is kept."""
        bits = np.unpackbits(self.bitmask.cpu().numpy(), count=self.d_out * self.d_in)
        return torch.from_numpy(bits).to(self.values.device).bool().reshape(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self.d_out, self.d_in

    def tensors(self) -> Mapping[str, Tensor]:
        return {"bitmask": self.bitmask, "values": self.values}

    def decompress(self) -> Float[Tensor, "d_out d_in"]:
        dense = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device)
        dense[self.mask()] = self.values
        return dense

    @property
    def n_nonzero(self) -> int:
        return self.values.numel()
