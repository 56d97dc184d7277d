"""Run checked experiments one after the other: recorded ones are skipped, a failed one does not stop the rest."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nowag_exp import experiment as one
from nowag_exp.config import Experiment
from nowag_exp.errors import NowagError
from nowag_exp.experiment import Workbench
from nowag_exp.files import locked
from nowag_exp.progress import Reporter
from nowag_exp.records.record import RunRecord, record_path

log = logging.getLogger("nowag_exp")


@dataclass(frozen=True)
class Outcome:
    """What became of one experiment.

    Attributes:
        record: ``None`` if it failed.
        failure: one line; ``None`` if it did not.
        log_file: where the traceback is.
    """

    experiment: Experiment
    record: RunRecord | None
    failure: str | None
    log_file: Path


def run_all(experiments: list[Experiment], bench: Workbench, reporter: Reporter) -> list[Outcome]:
    """Run experiments grouped by model, each model in the order given."""
    order = {experiment.model: None for experiment in experiments}
    grouped = [experiment for model in order for experiment in experiments if experiment.model == model]
    outcomes = []
    with reporter.live(), reporter.stage("experiments", len(grouped)) as tick:
        for number, experiment in enumerate(grouped, start=1):
            outcome = run_logged(experiment, bench, reporter)
            outcomes.append(outcome)
            reporter.say(f"[{number}/{len(grouped)}] {experiment.describe()}: {_result(outcome)}")
            tick()
    return outcomes


def run_logged(experiment: Experiment, bench: Workbench, reporter: Reporter) -> Outcome:
    """Run one experiment unless an equal one is recorded; a failure is an outcome, with its traceback in the log."""
    fingerprint = experiment.fingerprint
    log_file = experiment.paths.folder / "logs" / f"{fingerprint}.log"
    # Two processes that want the same experiment do it once: the second finds the record of the first.
    with locked(record_path(experiment.paths.folder, fingerprint)), logging_to(log_file):
        try:
            record = one.recorded(experiment) or one.run(experiment, bench, reporter)
            return Outcome(experiment, record, None, log_file)
        except Exception as error:
            log.exception("failed")
            named = isinstance(error, NowagError)
            failure = (
                " ".join(str(error).split()) if named else f"{type(error).__name__}: {' '.join(str(error).split())}"
            )
            return Outcome(experiment, None, failure, log_file)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write what is logged while the body runs to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _result(outcome: Outcome) -> str:
    if outcome.record is None:
        return f"FAILED, {outcome.failure}"
    return ", ".join(f"{metric.name} {metric.value:.3f} on {metric.protocol}" for metric in outcome.record.metrics)
