"""The set of measurements that an experiment makes of a model."""

from dataclasses import dataclass
from typing import Any

from nowag_exp.evaluation.protocols import Perplexity
from nowag_exp.evaluation.zero_shot import ZeroShot


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that an experiment measures.

    Attributes:
        perplexities: in the order of their config keys.
        zero_shot: likewise.
        fidelity: whether the model is held against the dense one, too.
        noise_floor_windows: windows of each perplexity on which the dense model is compared with itself.
    """

    perplexities: tuple[Perplexity, ...]
    zero_shot: tuple[ZeroShot, ...]
    fidelity: bool
    noise_floor_windows: int

    def identity(self, is_dense: bool) -> dict[str, Any]:
        """What fixes the results; what does not concern the method at hand is left out."""
        return {
            "perplexity": {part.key: part.identity() for part in self.perplexities},
            "zero_shot": {part.key: part.identity() for part in self.zero_shot},
            "fidelity": self.fidelity,
            "noise_floor_windows": self.noise_floor_windows if is_dense and self.fidelity else None,
        }
