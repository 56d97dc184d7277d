"""Perplexity protocols: which text, which windows of it, under which name."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from nowag_exp.evaluation.measurement import Measurement
from nowag_exp.settings import Name, settings
from nowag_exp.text import MOST_DRAWN, DrawnTokens, HubText, LocalText, TextSource, Tokenizer, WikiSample, Windows, draw


@settings
class Perplexity(Measurement, Windows, TextSource):
    """Windows of tokens whose perplexity is measured.

    Attributes:
        n_windows: how many windows of ``context_length`` tokens; ``null`` for all that are whole.
    """

    version: ClassVar[int] = 1
    """Raised when the same windows and weights would give another value."""

    n_windows: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_windows is None and self.is_random:
            raise ValueError(
                f"n_windows: null (all windows) needs sampling=sequential or evenly_spaced, not {self.sampling}; "
                "set a number"
            )
        if self.n_windows is not None and self.n_windows < 1:
            raise ValueError(f"n_windows: must be at least 1, or null for all; got {self.n_windows}")
        if self.n_windows is not None and self.is_random and self.n_windows > MOST_DRAWN:
            raise ValueError(f"n_windows: must be at most {MOST_DRAWN} where they are drawn; got {self.n_windows}")

    @property
    @abstractmethod
    def label(self) -> str:
        """Name of the text in the protocol's name."""

    @property
    def protocol(self) -> str:
        """Name of the protocol: ``wikitext2@4096``."""
        return f"{self.label}@{self.context_length}"

    def tokens(self, tokenizer: Tokenizer) -> DrawnTokens:
        """Take the windows with the model's tokenizer."""
        return draw(self.documents(), tokenizer, self, self.n_windows)

    def identity(self) -> dict[str, Any]:
        """What fixes the windows, given the tokenizer, and how they are measured."""
        text = self.source_identity()
        return {"version": self.version, "text": text, "n_windows": self.n_windows, **self.windows_identity()}


@settings
class NamedPerplexity(Perplexity):
    """On a text that has a name.

    Attributes:
        name: of the text, and of its entry in the config.
    """

    name: Name

    @property
    def key(self) -> str:
        return f"evaluation.{self.name}"

    @property
    def label(self) -> str:
        return self.name


@settings
class HubPerplexity(NamedPerplexity, HubText):
    """On files of a data set on the hub."""


@settings
class WikiSamplePerplexity(NamedPerplexity, WikiSample):
    """On the packaged Wikipedia articles."""


@settings
class LocalPerplexity(Perplexity, LocalText):
    """On files of the user."""

    @property
    def key(self) -> str:
        return "evaluation.files"

    @property
    def label(self) -> str:
        return f"files:{Path(self.path).name}"
