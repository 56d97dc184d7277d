"""The contract of an executor, and what those that use other processes share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from nowag_exp.config import Experiment
from nowag_exp.experiment import Workbench, recorded
from nowag_exp.progress import Reporter
from nowag_exp.records.record import record_path
from nowag_exp.runner import Outcome, is_busy, log_file_of

INSTEAD = "executor=inline or executor=processes"
"""Of those that are not installed with the package."""


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

        Raises:
            KeyboardInterrupt: if asked to stop, after the current blocks of all jobs.
        """


def free_first(experiments: Iterable[Experiment]) -> Iterator[Experiment]:
    """Experiments in their order, but those that another process is running at the end.

    So two sweeps on one store share the work, where the second would otherwise follow the first and wait for each job.
    """
    busy: list[Experiment] = []
    for experiment in experiments:
        if is_busy(experiment):
            busy.append(experiment)
        else:
            yield experiment
    while busy:
        free = next((experiment for experiment in busy if not is_busy(experiment)), busy[0])
        busy.remove(free)
        yield free


def ended(experiment: Experiment, failure: str | None) -> Outcome:
    """The outcome of a job that ended in another process and kept its record itself."""
    log_file = log_file_of(experiment)
    if failure is not None:
        return Outcome(experiment, None, failure, log_file)
    record = recorded(experiment)
    if record is None:
        path = record_path(experiment.paths.folder.absolute(), experiment.fingerprint)
        failure = f"ended well, but there is no {path}; paths.results must be on a file system that all machines share"
    return Outcome(experiment, record, failure, log_file)


def crashed(experiment: Experiment, reason: str) -> Outcome:
    """The outcome of a job whose process died."""
    return Outcome(experiment, None, f"its process died: {reason}", log_file_of(experiment), crashed=True)
