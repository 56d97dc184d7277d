"""The contract of a method: settings, and one pure function of an input site."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nowag_exp.formats import CompressedWeight
from nowag_exp.ledger import Ledger

Propagate = Literal["dense", "compressed"]


@runtime_checkable
class FactorCache(Protocol):
    """Keeps factors by name; a ``dict`` is one."""

    def get(self, name: str, /) -> Tensor | None:
        """A factor, if it has been made before."""

    def __setitem__(self, name: str, factor: Tensor, /) -> None:
        """Keep a factor."""


class Needs(enum.Enum):
    """What a method must know of the activations at an input site."""

    NOTHING = "nothing"
    DIAGONAL = "diagonal"
    HESSIAN = "hessian"


@dataclass(frozen=True)
class SiteStatistics:
    """What was seen at one input site.

    Attributes:
        n_tokens: number of activation vectors ``x`` seen.
        sum_of_squares: ``Σ x_j²`` over them, fp64.
        second_moment: ``Σ x xᵀ`` over them, fp32; only for methods that need the Hessian.
        factors: what has been made of the second moment; whoever makes the statistics decides how long it is kept, so
            that one factorisation may serve several methods.
    """

    n_tokens: int
    sum_of_squares: Float[Tensor, " d_in"]
    second_moment: Float[Tensor, "d_in d_in"] | None = None
    factors: FactorCache = field(default_factory=dict[str, Tensor], compare=False, repr=False)

    def to(self, device: torch.device) -> "SiteStatistics":
        """The same on another device."""
        second_moment = None if self.second_moment is None else self.second_moment.to(device)
        return replace(self, sum_of_squares=self.sum_of_squares.to(device), second_moment=second_moment)

    @property
    def dead(self) -> Bool[Tensor, " d_in"]:
        """Inputs that were 0 on every token."""
        return self.sum_of_squares == 0

    @property
    def hessian(self) -> Float[Tensor, "d_in d_in"]:
        """``H = 2/n Σ x xᵀ``."""
        assert self.second_moment is not None, "the walk gives the second moment to every method that needs the Hessian"
        return self.second_moment * (2 / self.n_tokens)

    @property
    def hessian_diagonal(self) -> Float[Tensor, " d_in"]:
        """``H_jj = 2/n Σ x_j²``."""
        return self.sum_of_squares * (2 / self.n_tokens)

    @property
    def input_norms(self) -> Float[Tensor, " d_in"]:
        """``‖X_j‖₂``, the norm of input ``j`` over all tokens."""
        return self.sum_of_squares.sqrt()


def required(statistics: SiteStatistics | None) -> SiteStatistics:
    """The statistics of a method that declared it needs some."""
    assert statistics is not None, "the walk gives statistics to every method whose `needs` asks for them"
    return statistics


class Method(ABC):
    """Settings of a method, and what it does to the linears of one input site.

    Subclasses are decorated with ``@settings``. They see weights and statistics only: never modules, hooks, files or
    devices.
    """

    version: ClassVar[int]
    """Raised whenever the same settings would give other weights; older results are then not served any more."""

    needs: Needs
    """What it must know of the activations; a class attribute, or a property that follows from the settings."""

    name: str
    propagate: Propagate
    """Whether a block is calibrated on ``dense`` activations or on those of the ``compressed`` blocks before it."""

    @abstractmethod
    def compress(
        self, weights: Mapping[str, Float[Tensor, "..."]], statistics: SiteStatistics | None, ledger: Ledger
    ) -> dict[str, CompressedWeight]:
        """Compress the linears that read one activation.

        Args:
            weights: ``(d_out, d_in)`` weights by linear name; they share ``d_in`` but not ``d_out``.
            statistics: of the activation they read; ``None`` only if the method needs nothing.
            ledger: whatever is not the textbook path is written down here, under the linear's name.
        """

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> str | None:
        """Say what is wrong with compressing linears of these ``(d_out, d_in)``, before anything is loaded."""
        del shapes
        return None

    def count_bits(self, d_out: int, d_in: int) -> int | None:
        """Size of a compressed weight of this shape in bits, if it follows from the settings; else ``None``."""
        del d_out, d_in
        return None

    def describe(self) -> str:
        """Its main settings in a word or two, for tables; empty if it has none."""
        return ""

    def identity(self) -> dict[str, Any]:
        """What fixes the result: the class, its version and its settings (``propagate`` only if activations matter)."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}  # type: ignore[arg-type]
        if self.needs is Needs.NOTHING:
            del values["propagate"]
        return {"class": type(self).__qualname__, "version": self.version, **values}
