"""What the command line asks of a table, and the fewest experiments that measure all of its values."""

from dataclasses import dataclass, field
from typing import Any

from nowag_exp.compose import compose, split_execution
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.layout import among
from nowag_exp.published import NotRunnable, Published
from nowag_exp.published.mapping import Choice, evaluation_overrides, needed
from nowag_exp.published.tables import SELECTABLE, Table, select
from nowag_exp.yamls import parse_yaml

PASSED_ON = ("paths.results", "data_dir", "tracking", "runtime")
"""Config keys that change no number of a table, so that they may be set."""


@dataclass(frozen=True)
class Request:
    """The overrides of the command line, by what they do.

    Attributes:
        selection: values by column of the published rows.
        seeds: each gives an experiment of its own where something is drawn at random.
        config: for every experiment.
        execution: of the executor.
    """

    selection: dict[str, list[str]]
    seeds: list[int]
    config: list[str]
    execution: list[str]


@dataclass(frozen=True)
class Job:
    """One experiment but for its seed, and the published values that it measures.

    Attributes:
        overrides: of the config.
    """

    overrides: tuple[str, ...]
    rows: list[Published]

    def experiments(self, request: Request) -> list[Experiment]:
        """One a seed.

        Raises:
            ConfigError: if an override of the request is wrong.
        """
        return [build_experiment(compose([*self.overrides, *request.config, f"seed={seed}"])) for seed in request.seeds]


@dataclass(frozen=True)
class Plan:
    """What a table takes.

    Attributes:
        left_out: rows that no experiment here reproduces, with the reason.
    """

    jobs: list[Job]
    left_out: list[tuple[Published, str]] = field(default_factory=list)

    @property
    def n_values(self) -> int:
        """Published values that the jobs measure."""
        return sum(len(job.rows) for job in self.jobs)


def parse_request(overrides: list[str]) -> Request:
    """Sort the overrides of the command line.

    Raises:
        RequestError: on one that would change what the table fixes.
    """
    execution, what = split_execution(overrides)
    selection: dict[str, list[str]] = {}
    seeds, config = [0], []
    for text in what:
        key, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"{text}: is not KEY=VALUE; a table takes, for example, model=llama2_7b")
        if key in SELECTABLE:
            selection[key] = [one.strip() for one in value.split(",")]
        elif key == "seeds":
            seeds = _seeds(value)
        elif key.split(".")[0] in PASSED_ON or key in PASSED_ON:
            config.append(text)
        else:
            known = [*SELECTABLE, *PASSED_ON, "seeds", "executor"]
            raise RequestError(f"{text}: chooses no rows, and the table fixes the rest" + among(key, known))
    return Request(selection, seeds, config, execution)


def _seeds(text: str) -> list[int]:
    seeds = parse_yaml(text, "seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise RequestError(f"seeds={text}: must be a list of integers, such as seeds=[0,1,2]")
    return seeds


def plan_jobs(table: Table, request: Request) -> Plan:
    """The chosen rows, those of one experiment together.

    Rows share an experiment if they share model, calibration and method and do not want one data set at two settings.

    Raises:
        RequestError: if the selection names what no row has.
    """
    if not table.rows:  # Its notes say why; no selection finds more.
        return Plan([], [])
    jobs: dict[tuple[str, ...], list[tuple[dict[str, Choice], list[Published]]]] = {}
    left_out: list[tuple[Published, str]] = []
    for row in select(table.rows, request.selection, f"table {table.name}"):
        need = needed(row)
        if isinstance(need, NotRunnable):
            left_out.append((row, need.reason))
            continue
        evaluation = need.evaluation
        experiments = jobs.setdefault(need.compression, [])
        fitting = next((one for one in experiments if _fits(one[0].get(evaluation.option), evaluation)), None)
        if fitting is None:
            fitting = ({}, [])
            experiments.append(fitting)
        fitting[0].setdefault(evaluation.option, evaluation)
        fitting[1].append(row)
    return Plan(
        [
            Job((*compression, *evaluation_overrides(list(choices.values()))), rows)
            for compression, experiments in jobs.items()
            for choices, rows in experiments
        ],
        left_out,
    )


def _fits(there: Choice | None, wanted: Choice) -> bool:
    return there is None or there.settings == wanted.settings


def unique(experiments: list[Experiment]) -> list[Experiment]:
    """Each fingerprint once: seeds change nothing where nothing is drawn."""
    found: dict[Any, Experiment] = {}
    for experiment in experiments:
        found.setdefault(experiment.fingerprint, experiment)
    return list(found.values())
