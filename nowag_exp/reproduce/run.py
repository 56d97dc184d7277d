"""Run what a table takes, as far as this machine can, and judge it."""

from dataclasses import dataclass, replace
from pathlib import Path

from nowag_exp.config import Experiment
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.execution import Executor, run_all
from nowag_exp.experiment import Workbench, check, choose_device, recorded
from nowag_exp.files import require_writable
from nowag_exp.progress import Reporter
from nowag_exp.published import load_published
from nowag_exp.records.record import RunRecord, record_path
from nowag_exp.reproduce.plan import Job, Plan, Request, unique
from nowag_exp.reproduce.verdict import Line, judge, measured_as, not_run


@dataclass(frozen=True)
class Prepared:
    """A job of the plan with its experiments.

    Attributes:
        experiments: one a seed; each fingerprint once.
        recorded: whether all of them are.
        missing: what this machine has not got; ``None`` if nothing is known to be missing.
    """

    job: Job
    experiments: list[Experiment]
    recorded: bool
    missing: str | None = None


def prepare(plan: Plan, request: Request) -> list[Prepared]:
    """Build every experiment and look for its record; loads and downloads nothing.

    Raises:
        ConfigError: if an override is wrong.
    """
    found = []
    for job in plan.jobs:
        experiments = job.experiments(request)
        try:
            done = all(recorded(experiment) is not None for experiment in experiments)
            found.append(Prepared(job, unique(experiments), done))
        except ConfigError:
            raise
        except RequestError as error:  # Of a data set whose commit only the hub knows, or that is not in data_dir.
            found.append(Prepared(job, experiments, False, str(error)))
    return found


def look(prepared: list[Prepared], bench: Workbench) -> list[Prepared]:
    """Find out what is missing here for those that are not recorded; downloads what can be had.

    Raises:
        RequestError: if the request itself cannot be met: its config, its device, its folder.
    """
    without: dict[str, str] = {}  # Asked once a model: each question may wait for the network.
    found = []
    for one in prepared:
        missing = one.missing
        if missing is None and not one.recorded:
            for experiment in one.experiments:
                label = experiment.model.label
                missing = missing or without.get(label) or _missing(experiment, bench, without)
        found.append(replace(one, missing=missing))
    return found


def _missing(experiment: Experiment, bench: Workbench, without: dict[str, str]) -> str | None:
    """What a check finds missing; the settings of this machine are checked first, since they are the request's own."""
    choose_device(experiment)
    experiment.tracking.check()
    require_writable(record_path(experiment.paths.folder, experiment.fingerprint))
    try:
        bench.architecture(experiment)
    except ConfigError:
        raise
    except RequestError as error:
        without[experiment.model.label] = str(error)
        return str(error)
    try:
        check(experiment, bench)
    except ConfigError:
        raise
    except RequestError as error:
        return str(error)
    return None


def execute(
    prepared: list[Prepared], bench: Workbench, reporter: Reporter, executor: Executor, name: str
) -> dict[str, RunRecord | str]:
    """Run what is not missing: the record of each fingerprint, or why there is none."""
    experiments = unique([experiment for one in prepared if one.missing is None for experiment in one.experiments])
    if not experiments:
        return {}
    outcomes = run_all(experiments, bench, reporter, f"reproduce {name}", executor)
    return {
        outcome.experiment.fingerprint: outcome.record or f"{outcome.failure} (traceback in {outcome.log_file})"
        for outcome in outcomes
    }


def judge_all(prepared: list[Prepared], outcomes: dict[str, RunRecord | str], results: Path) -> list[Line]:
    """A line for each published value of the plan."""
    everything = load_published()
    lines = []
    for one in prepared:
        if one.missing is not None:
            lines += [not_run(row, one.missing) for row in one.job.rows]
            continue
        found = [outcomes[experiment.fingerprint] for experiment in one.experiments]
        failures = [outcome for outcome in found if isinstance(outcome, str)]
        records = [outcome for outcome in found if isinstance(outcome, RunRecord)]
        for row in one.job.rows:
            lines.append(
                not_run(row, failures[0]) if failures else judge(row, measured_as(row, records, results), everything)
            )
    return lines
