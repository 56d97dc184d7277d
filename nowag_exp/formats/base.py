"""What every format promises, and how a weight is put together again from a file."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class FormatError(ValueError):
    """Stored tensors are not what their layout says."""


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types of stored values, by the name that layouts use."""


class TensorSpec(NamedTuple):
    """Data type and shape of a stored tensor; a type that no format uses goes by its name in files."""

    dtype: torch.dtype | str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


def count_bits(specs: Mapping[str, TensorSpec]) -> int:
    """Size of the tensors in bits, without having them."""
    bits = 0
    for spec in specs.values():
        assert isinstance(spec.dtype, torch.dtype), "no format of ours uses another one"
        bits += 8 * math.prod(spec.shape) * spec.dtype.itemsize
    return bits


@dataclass(frozen=True)
class CompressedWeight(ABC):
    """A weight matrix in the form in which it is held.

    Subclasses are frozen dataclasses. Their tensor fields are what is stored and what is counted. All other fields make
    up the layout: plain JSON that fixes the data type and shape of every tensor.

    Attributes:
        d_out: rows.
        d_in: columns.
    """

    kind: ClassVar[str]
    """Name of the format in files."""

    tensor_names: ClassVar[tuple[str, ...]]
    """Fields that hold tensors; one that is ``None`` is not there."""

    d_out: int
    d_in: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)`` of the matrix it stands for."""
        return self.d_out, self.d_in

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor needed to decompress, by name."""
        values = {name: getattr(self, name) for name in self.tensor_names}
        return {name: value for name, value in values.items() if value is not None}

    def to(self, device: torch.device) -> "CompressedWeight":
        """The same, its tensors on a device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return dataclasses.replace(self, **moved)

    def layout(self) -> dict[str, Any]:
        """Everything else needed to decompress, as plain JSON."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in self.tensor_names]
        return {name: getattr(self, name) for name in names}

    @classmethod
    @abstractmethod
    def specs(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """The tensors that a checked layout asks for."""

    @classmethod
    def check(cls, layout: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """The tensors that a layout of unknown origin asks for.

        Raises:
            FormatError: if it is not a layout of this format.
        """
        known = {field.name: field.type for field in dataclasses.fields(cls) if field.name not in cls.tensor_names}
        if set(layout) != set(known):
            raise FormatError(f"the layout of a weight in format {cls.kind} has {sorted(known)}; got {sorted(layout)}")
        for name, value in layout.items():
            if type(value) is not known[name] or (type(value) is int and value < 0):
                raise FormatError(f"{name} must be a non-negative {known[name].__name__}; got {value!r}")  # type: ignore[union-attr]
        try:
            return cls.specs(layout)
        except (ValueError, KeyError, ZeroDivisionError) as error:
            raise FormatError(
                f"the layout of a weight in format {cls.kind} cannot be {dict(layout)} ({error})"
            ) from error

    @classmethod
    def restore(cls, layout: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "CompressedWeight":
        """Put a weight together from its layout and its tensors.

        Raises:
            FormatError: naming the tensor that is missing, left over, or of another type or shape than the layout says.
        """
        specs = cls.check(layout)
        if set(tensors) != set(specs):
            raise FormatError(f"has tensors {sorted(tensors)}, its layout asks for {sorted(specs)}")
        for name, spec in specs.items():
            found = TensorSpec(tensors[name].dtype, tuple(tensors[name].shape))
            if found != spec:
                raise FormatError(f"{name} is {found}, its layout asks for {spec}")
        fields: dict[str, Any] = {**layout, **{name: tensors.get(name) for name in cls.tensor_names}}
        return cls(**fields)

    @abstractmethod
    def decompress(self) -> Float[Tensor, "{self.d_out} {self.d_in}"]:
        """The values that evaluation uses, once rounded to the model's dtype.

        Raises:
            FormatError: if the tensors contradict one another, as those of a damaged file may.
        """

    @property
    @abstractmethod
    def n_nonzero(self) -> int:
        """How many weights are kept (a kept weight may have the value 0)."""

    @property
    def bits(self) -> int:
        """Size of :meth:`tensors` in bits, counted from the tensors themselves."""
        return sum(8 * tensor.numel() * tensor.element_size() for tensor in self.tensors().values())
