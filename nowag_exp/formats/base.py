"""What every format promises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor


class CompressedWeight(ABC):
    """A weight matrix in the form in which it is held."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)`` of the matrix it stands for."""

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor needed to decompress, by name."""

    @abstractmethod
    def decompress(self) -> Float[Tensor, "d_out d_in"]:
        """The values that evaluation uses."""

    @property
    @abstractmethod
    def n_nonzero(self) -> int:
        """How many weights are kept (a kept weight may have the value 0)."""

    @property
    def bits(self) -> int:
        """Size of :meth:`tensors` in bits, counted from the tensors themselves."""
        return sum(8 * tensor.numel() * tensor.element_size() for tensor in self.tensors().values())
