"""A job as another process gets it: plain data in, one line out."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nowag_exp.config import Experiment


@dataclass(frozen=True)
class Job:
    """One experiment for a process that shares nothing with this one but the files.

    Attributes:
        config: resolved, plain containers.
        fingerprint: of the experiment when it was checked.
        folder: that relative paths start from.
        group: name of the sweep, for the tracker.
    """

    config: dict[str, Any]
    fingerprint: str
    folder: str
    group: str | None

    @classmethod
    def of(cls, experiment: Experiment, group: str | None) -> "Job":
        """The job of a checked experiment."""
        return cls(experiment.config, experiment.fingerprint, str(Path.cwd()), group)


STOPPED = 130
"""Exit code of a process that was asked to stop."""


def run_job(job: Job, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> str | None:
    """Run a job in this process, which does nothing else; returns why it failed, if it did.

    Args:
        job: to run.
        signals: that ask it to stop.

    Raises:
        KeyboardInterrupt: if this process was asked to stop; what was done is kept.
    """
    from nowag_exp import interrupt
    from nowag_exp.config import build_experiment
    from nowag_exp.errors import NowagError, one_line
    from nowag_exp.experiment import Workbench
    from nowag_exp.progress import Reporter
    from nowag_exp.runner import run_logged

    try:
        os.chdir(job.folder)
        experiment = build_experiment(job.config)
        if experiment.fingerprint != job.fingerprint:
            raise NowagError("its model or texts changed since the sweep was started; run the same command again")
        with interrupt.graceful(signals):
            return run_logged(experiment, Workbench(), Reporter(), job.group).failure
    except Exception as error:  # Before it ran: a failed experiment is an outcome already.
        return one_line(error)
