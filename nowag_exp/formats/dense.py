"""A weight that was left alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nowag_exp.formats.base import CompressedWeight


@dataclass(frozen=True)
class DenseWeight(CompressedWeight):
    """All values, in the dtype of the model."""

    values: Float[Tensor, "d_out d_in"]

    @property
    def shape(self) -> tuple[int, int]:
        d_out, d_in = self.values.shape
        return d_out, d_in

    def tensors(self) -> Mapping[str, Tensor]:
        return {"values": self.values}

    def decompress(self) -> Float[Tensor, "d_out d_in"]:
        return self.values

    @property
    def n_nonzero(self) -> int:
        return self.values.numel()
