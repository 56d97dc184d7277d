"""Run one checked experiment unless it is recorded: the outcome, with its log and its tracker."""

import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nowag_exp import experiment as one
from nowag_exp.config import Experiment
from nowag_exp.errors import RequestError, one_line, without_userinfo
from nowag_exp.experiment import Workbench
from nowag_exp.files import is_locked, locked, remove_left_behind, require_room
from nowag_exp.models import damage
from nowag_exp.progress import Reporter
from nowag_exp.records.record import RunRecord, load_record, record_path
from nowag_exp.records.store import Store
from nowag_exp.tracking import Tracker, send_saved
from nowag_exp.unfinished import clear

log = logging.getLogger("nowag_exp")


@dataclass(frozen=True)
class Outcome:
    """What became of one experiment.

    Attributes:
        record: ``None`` if it failed.
        failure: one line; ``None`` if it did not.
        log_file: where the traceback is.
        crashed: whether its process died, so that the end of the log says more than the failure.
    """

    experiment: Experiment
    record: RunRecord | None
    failure: str | None
    log_file: Path
    crashed: bool = False


def run_logged(experiment: Experiment, bench: Workbench, reporter: Reporter, group: str | None = None) -> Outcome:
    """Run one experiment unless an equal one is recorded; a failure is an outcome, with its traceback in the log.

    Its record is then sent to the tracker, unless it has been; that this fails is said, and is no failure.
    """
    results, fingerprint, tracker = experiment.paths.folder, experiment.fingerprint, experiment.tracking
    _tidy(results)
    log_file = _log_file(results, fingerprint)
    # Two processes that want the same experiment do it once: the second finds the record of the first.
    with locked(record_path(results, fingerprint)), logging_to(log_file):
        try:
            record = one.recorded(experiment)
            if record is None:
                if experiment.checkpoint.save:
                    # Here, as planning takes a while to import and few experiments save.
                    from nowag_exp.planning.checkpoint import checkpoint_bytes

                    folder = experiment.checkpoint_folder
                    if folder.exists() and (lost := damage(folder)):
                        reporter.say(f"{experiment.describe()}: {lost}: making the checkpoint again")
                    require_room(folder, int(checkpoint_bytes(experiment, experiment.model.sizes())))
                with reporter.job(experiment.describe()):
                    record = one.run(experiment, bench, reporter)
            clear(Store(results / "store"), fingerprint)
            record, not_sent = send_saved(tracker, record, results, group)
            if not_sent:
                reporter.say(f"{experiment.describe()}: recorded, but not sent to {tracker.name}: {not_sent}")
            return Outcome(experiment, record, None, log_file)
        except Exception as error:
            log.exception("failed")
            return Outcome(experiment, None, one_line(error), log_file)


@functools.cache
def _tidy(results: Path) -> None:
    """Once a process: who was killed after the last step of a write left a folder that no other write removes."""
    remove_left_behind(results)


def send_logged(tracker: Tracker, fingerprint: str, results: Path) -> str | None:
    """Send a record that was kept before, unless it has been sent; return why that failed, if it did."""
    path = record_path(results, fingerprint)
    with locked(path), logging_to(_log_file(results, fingerprint)):
        return send_saved(tracker, load_record(path), results, None)[1]


def is_busy(experiment: Experiment) -> bool:
    """Whether another process is running it."""
    return is_locked(record_path(experiment.paths.folder, experiment.fingerprint))


def log_file_of(experiment: Experiment) -> Path:
    """Where the log of an experiment is kept."""
    return _log_file(experiment.paths.folder, experiment.fingerprint)


def _log_file(results: Path, fingerprint: str) -> Path:
    return results / "logs" / f"{fingerprint}.log"


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write what is logged while the body runs to a file.

    Raises:
        RequestError: if its folder is a file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise RequestError(
            f"{path.parent}: cannot be written to (it is no folder); move it away, or set paths.results=DIR"
        ) from error
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


class _WithoutSecrets(logging.Formatter):
    """Tracebacks of libraries repeat URLs with their passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return without_userinfo(super().format(record))


class _LogFile(logging.FileHandler):
    """Loses lines that there is no room for: what fails for that reason says so, and logging would print tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # When it is opened, by the first line.
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()
