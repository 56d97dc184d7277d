"""The contract of an executor."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from nowag_exp.config import Experiment
from nowag_exp.experiment import Workbench
from nowag_exp.progress import Reporter
from nowag_exp.runner import Outcome


class Executor(ABC):
    """Settings of an engine, and how it runs experiments. Subclasses are decorated with ``@settings``."""

    name: str

    def check(self) -> None:
        """Find out whether the engine can be used.

        Raises:
            RequestError: if it is not installed or cannot be reached, saying what to do.
        """
        return

    @abstractmethod
    def run(
        self, experiments: Iterable[Experiment], bench: Workbench, reporter: Reporter, group: str | None
    ) -> Iterator[Outcome]:
        """Run checked experiments and give their outcomes as they end, in any order.

        Experiments are taken from the iterable only when there is room for another one, so it may decide what comes
        next by what has ended. A failure, even of the process that ran it, is an outcome and never stops the others.

        Args:
            experiments: checked.
            bench: what this process has loaded.
            reporter: shows progress.
            group: name of the sweep, for the tracker.
        """
