"""What can be measured of a model."""

from abc import ABC, abstractmethod
from typing import Any


class Measurement(ABC):
    """One entry of the config's ``evaluation``: a perplexity protocol or a zero-shot suite."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Where it stands in the config."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What fixes the result, given model and method."""
