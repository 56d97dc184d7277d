"""Which text calibrates, and how its sequences are drawn."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from nowag_exp.calibration.statistics import VERSION as STATISTICS_VERSION
from nowag_exp.settings import settings
from nowag_exp.text import MOST_DRAWN, DrawnTokens, HubText, LocalText, TextSource, Tokenizer, WikiSample, Windows, draw


@settings
class Calibration(Windows, TextSource):
    """Sequences of tokens whose activations guide a method.

    Attributes:
        n_sequences: how many windows of ``context_length`` tokens.
    """

    n_sequences: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n_sequences <= MOST_DRAWN:
            raise ValueError(f"n_sequences: must be from 1 to {MOST_DRAWN}; got {self.n_sequences}")

    @property
    def key(self) -> str:
        return "calibration"

    @property
    @abstractmethod
    def label(self) -> str:
        """Name in tables."""

    def tokens(self, tokenizer: Tokenizer) -> DrawnTokens:
        """Draw the sequences with the model's tokenizer."""
        return draw(self.documents(), tokenizer, self, self.n_sequences)

    def identity(self) -> dict[str, Any]:
        """What fixes the sequences, given the tokenizer, and what is learnt from them."""
        return {
            "statistics": STATISTICS_VERSION,
            "text": self.source_identity(),
            "n_sequences": self.n_sequences,
            **self.windows_identity(),
        }


@settings
class HubCalibration(Calibration, HubText):
    """From files of a data set on the hub."""

    name: str

    @property
    def label(self) -> str:
        return self.name


@settings
class LocalCalibration(Calibration, LocalText):
    """From files of the user."""

    @property
    def label(self) -> str:
        return f"files:{Path(self.path).name}"


@settings
class WikiSampleCalibration(Calibration, WikiSample):
    """From the packaged Wikipedia articles."""

    name: str

    @property
    def label(self) -> str:
        return self.name
