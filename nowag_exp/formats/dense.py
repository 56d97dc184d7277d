"""A weight that was left alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nowag_exp.formats.base import DTYPES, CompressedWeight, TensorSpec


@dataclass(frozen=True)
class DenseWeight(CompressedWeight):
    """All values, in the dtype of the model.

    Attributes:
        dtype: of the values, such as ``float32``.
        weight: the values.
    """

    kind = "dense"
    tensor_names = ("weight",)

    dtype: str
    weight: Float[Tensor, "d_out d_in"]

    @classmethod
    def of(cls, weight: Float[Tensor, "d_out d_in"]) -> "DenseWeight":
        """Hold a weight as it is."""
        d_out, d_in = weight.shape
        return cls(d_out, d_in, str(weight.dtype).removeprefix("torch."), weight)

    @classmethod
    def specs(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        return {"weight": TensorSpec(DTYPES[layout["dtype"]], (layout["d_out"], layout["d_in"]))}

    def decompress(self) -> Float[Tensor, "{self.d_out} {self.d_in}"]:
        return self.weight

    @property
    def n_nonzero(self) -> int:
        return self.weight.numel()
