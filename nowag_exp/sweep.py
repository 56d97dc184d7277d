"""A sweep: ``sweeps/NAME.yaml`` expanded to experiments, all of them checked before the first one starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nowag_exp import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.experiment import Workbench, check, recorded
from nowag_exp.layout import among, folder, sweeps

KEYS = ("base", "models", "axes", "search", "seeds")


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    Attributes:
        experiments: each once.
        n_jobs: combinations of the axes.
        n_recorded: experiments that have a record already.
    """

    experiments: list[Experiment]
    n_jobs: int
    n_recorded: int

    def describe(self) -> str:
        """One line."""
        merged = self.n_jobs - len(self.experiments)
        parts = [f"{self.n_jobs} jobs"]
        parts += [f"{merged} equal to another and merged with it"] if merged else []
        return ", ".join([*parts, f"{self.n_recorded} recorded already", f"{self.n_to_run} to run"])

    @property
    def n_to_run(self) -> int:
        """Experiments without a record."""
        return len(self.experiments) - self.n_recorded


def plan(name: str, overrides: list[str], bench: Workbench) -> Plan:
    """Expand a sweep, check every job, merge equal ones, and find the recorded ones.

    Raises:
        RequestError: if any job is wrong; all problems at once, each with a job that has it.
    """
    jobs = expand(name, overrides)
    problems: dict[str, list[str]] = {}
    experiments: dict[str, Experiment] = {}
    n_recorded = 0
    for job in jobs:
        try:
            experiment = build_experiment(compose.compose(job))
            fingerprint = experiment.fingerprint
            first = next(iter(experiments.values()), experiment)
            if experiment.paths != first.paths:
                raise ConfigError(["paths.results: must be the same for all jobs of a sweep"])
            if fingerprint in experiments:
                continue
            experiments[fingerprint] = experiment
            if recorded(experiment):
                n_recorded += 1
            else:
                check(experiment, bench)
        except RequestError as error:
            for problem in getattr(error, "problems", [str(error)]):
                problems.setdefault(problem, []).append(" ".join(job))
    if problems:
        raise ConfigError([f"{problem} (in {_some(where)})" for problem, where in problems.items()])
    return Plan(list(experiments.values()), len(jobs), n_recorded)


def _some(jobs: list[str]) -> str:
    return f"the job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs, the first {jobs[0]}"


def expand(name: str, overrides: list[str]) -> list[list[str]]:
    """The overrides of each job.

    Command-line overrides replace what the file says of the same key, and may be axes themselves.

    Raises:
        RequestError: if there is no such sweep or its file is not one.
    """
    content = read(name)
    command_line = dict(_split(text) for text in overrides)
    if "seeds" in command_line:  # As in the file; not a key of the config.
        content["seeds"] = _seeds(yaml.safe_load(command_line.pop("seeds")), "command line")
    seeds = {"seed": ",".join(map(str, content["seeds"]))}
    grids = [{**content["base"], **seeds, **axes, **command_line} for axes in content["axes"]]
    return [job for grid in grids for job in compose.expand(grid)]


def read(name: str) -> dict[str, Any]:
    """A sweep file, checked: ``base`` and each of ``axes`` map keys to strings, ``seeds`` is a list. ``search`` is not.

    Raises:
        RequestError: naming what is wrong.
    """
    known = list(sweeps())
    if name not in known:
        raise RequestError(f"sweep {name}: no such sweep" + among(name, known))
    path = folder("sweeps") / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise RequestError(f"sweeps/{path.name}: is not YAML ({' '.join(str(error).split())})") from error
    strange = sorted(set(content) - set(KEYS))
    if strange:
        raise RequestError(f"sweeps/{path.name}: unknown key {strange[0]}" + among(strange[0], list(KEYS)))
    axes = content.get("axes") or [{}]
    grids = axes if isinstance(axes, list) else [axes]
    return {
        "base": _overrides(content.get("base") or {}, "base", path),
        "axes": [_overrides(grid, f"axes[{i}]", path) for i, grid in enumerate(grids)],
        "seeds": _seeds(content.get("seeds", [0]), f"sweeps/{path.name}"),
        "models": content.get("models") or {},
        "search": content.get("search"),
    }


def _seeds(seeds: Any, where: str) -> list[int]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise RequestError(f"{where}: seeds must be a list of integers, such as [0, 1, 2]; got {seeds!r}")
    return seeds


def _overrides(grid: Any, where: str, path: Path) -> dict[str, str]:
    if not isinstance(grid, Mapping):
        raise RequestError(f"sweeps/{path.name}: {where} must map config keys to values; got {grid!r}")
    for key, value in grid.items():
        if isinstance(value, list | dict) or value in (None, ""):
            raise RequestError(
                f"sweeps/{path.name}: {where}.{key} must be in Hydra's sweep grammar, such as 'a,b'; got {value!r}"
            )
    return {str(key): str(value) for key, value in grid.items()}


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError([f"{text}: is not KEY=VALUE; an override looks like model=tiny"])
    return key, value
