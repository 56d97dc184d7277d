"""The contract of a tracker: settings, and one function of a finished record."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from nowag_exp.records.record import RunRecord
from nowag_exp.settings import settings


class Tracker(ABC):
    """Settings of a tracker, and how it sends a record.

    Subclasses are decorated with ``@settings``. All that they send comes from the record and from what is kept beside
    it, so a record is sent in the same way when its run ends and at any later time.
    """

    name: ClassVar[str]

    timeout: float
    """Seconds that sending one record may take; after that it counts as failed."""

    @abstractmethod
    def check(self) -> None:
        """Find out, without a network, what makes sending impossible.

        Raises:
            RequestError: saying what to do.
        """

    @abstractmethod
    def destination(self) -> str | None:
        """Where records go, in words that differ for different places; ``None`` if nowhere."""

    @abstractmethod
    def send(self, record: RunRecord, results: Path, group: str | None) -> None:
        """Send one record; sending it again goes on with the same run, or replaces it.

        Args:
            record: without what is said in it of tracking.
            results: folder that it was kept in.
            group: name of the sweep that it belongs to.

        Raises:
            Exception: any, if it did not arrive.
        """


@settings
class NoTracking(Tracker):
    """Records stay in their files."""

    name: ClassVar[str] = "none"
    timeout = 0.0

    def check(self) -> None:
        pass

    def destination(self) -> None:
        return None

    def send(self, record: RunRecord, results: Path, group: str | None) -> None:
        pass
