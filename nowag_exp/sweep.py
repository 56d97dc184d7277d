"""A sweep: ``sweeps/NAME.yaml`` expanded to experiments, all of them checked before the first one starts."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nowag_exp import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.experiment import Workbench, check, recorded
from nowag_exp.layout import among, folder, groups, sweeps
from nowag_exp.models import Architecture, ModelSource
from nowag_exp.records.store import content_key
from nowag_exp.yamls import parse_yaml, read_yaml

KEYS = ("base", "axes", "seeds", "models", "unfit", "search")
UNFIT = ("error", "skip")

NOT_IN_A_TABLE = re.compile(r"\+{0,2}(paths|executor|runtime|tracking|checkpoint)[.=]")
"""Overrides that change no number of a table."""

SHOWN = 3
"""Jobs that a line names before it counts the others."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    Attributes:
        experiments: each once.
        n_jobs: combinations of the axes.
        n_recorded: experiments that have a record already.
        merged: jobs that are equal to another one, by that one; both by the overrides that tell jobs apart.
        left_out: jobs whose method does not fit the widths of the model, by the reason.
    """

    experiments: list[Experiment]
    n_jobs: int
    n_recorded: int
    merged: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def describe(self) -> str:
        """One line."""
        merged, left_out = (sum(map(len, jobs.values())) for jobs in (self.merged, self.left_out))
        parts = [f"{self.n_jobs} jobs"]
        parts += [f"{merged} equal to another and merged with it"] if merged else []
        parts += [f"{left_out} left out"] if left_out else []
        return ", ".join([*parts, f"{self.n_recorded} recorded already", f"{self.n_to_run} to run"])

    def notes(self) -> list[str]:
        """Lines that say which jobs were merged and left out."""
        merged = [f"merged with {kept}: {_some(jobs)}" for kept, jobs in self.merged.items()]
        return merged + [f"{len(jobs)} left out: {reason}" for reason, jobs in self.left_out.items()]

    @property
    def n_to_run(self) -> int:
        """Experiments without a record."""
        return len(self.experiments) - self.n_recorded


def plan(name: str, overrides: list[str], bench: Workbench, absent_ok: bool = False) -> Plan:
    """Expand a sweep, check every job, merge equal ones, and find the recorded ones.

    Args:
        name: of a file in ``sweeps/``.
        overrides: of the command line.
        bench: what this process has loaded.
        absent_ok: leave jobs unchecked whose model or texts are not on this machine, and download nothing from the hub.

    Raises:
        RequestError: if any job is wrong; all problems at once, each with a job that has it.
    """
    unfit, jobs = read(name)["unfit"], expand(name, overrides)
    short = _shortened(jobs)
    parts = _Parts(absent_ok)
    problems: dict[str, list[str]] = {}
    experiments: dict[str, Experiment] = {}
    kept: dict[str, str] = {}
    merged: dict[str, list[str]] = {}
    left_out: dict[str, list[str]] = {}
    n_recorded = 0
    for job, told_apart in zip(jobs, short, strict=True):
        try:
            experiment = build_experiment(compose.compose(job))
            first = next(iter(experiments.values()), experiment)
            if experiment.paths != first.paths:
                raise ConfigError(["paths.results: must be the same for all jobs of a sweep"])
            if problem := experiment.method.check_shapes(parts.sizes(experiment.model).linears()):
                if unfit == "error":
                    raise ConfigError([f"method.{problem}"])
                reason = f"method.{problem.split(';')[0]} ({experiment.model.label})"
                left_out.setdefault(reason, []).append(told_apart)
                continue
            key = parts.key(experiment)
            if key in experiments:
                merged.setdefault(kept[key], []).append(told_apart)
                continue
            experiments[key], kept[key] = experiment, told_apart
            if parts.resolved(experiment) and recorded(experiment):
                n_recorded += 1
            elif parts.here(experiment):
                check(experiment, bench)
        except RequestError as error:
            for problem in getattr(error, "problems", [str(error)]):
                problems.setdefault(problem, []).append(" ".join(job))
    if problems:
        raise ConfigError([f"{problem} (in {_first(where)})" for problem, where in problems.items()])
    if not experiments:
        raise RequestError(f"sweep {name}: none of its {len(jobs)} jobs fits; {'; '.join(left_out)}")
    return Plan(list(experiments.values()), len(jobs), n_recorded, merged, left_out)


class _Parts:
    """What is known of the models, texts and suites of a sweep, each looked up once.

    Args:
        absent_ok: whether one that is not here, and whose commit cannot be asked for, is no error.
    """

    def __init__(self, absent_ok: bool) -> None:
        self._absent_ok = absent_ok
        self._sizes: dict[ModelSource, Architecture] = {}
        self._resolved: dict[Any, bool] = {}
        self._here: dict[Any, bool] = {}

    def sizes(self, model: ModelSource) -> Architecture:
        """Of a model."""
        if model not in self._sizes:
            self._sizes[model] = model.sizes()
        return self._sizes[model]

    def key(self, experiment: Experiment) -> str:
        """What equal experiments share: the fingerprint; where no commit can be had, their settings."""
        if self.resolved(experiment):
            return experiment.fingerprint
        fixing = ("model", "calibration", "method", "evaluation")
        return content_key({name: experiment.config[name] for name in fixing if getattr(experiment, name) is not None})

    def resolved(self, experiment: Experiment) -> bool:
        """Whether the fingerprint can be had; without a network it cannot if something on the hub has no commit."""
        return all(self._resolves(part) for part in _parts(experiment))

    def here(self, experiment: Experiment) -> bool:
        """Whether it may be checked."""
        return not self._absent_ok or all(self._is_here(part) for part in _parts(experiment))

    def _resolves(self, part: Any) -> bool:
        if part not in self._resolved:
            try:
                part.identity()
                self._resolved[part] = True
            except RequestError:
                if not self._absent_ok or self._is_here(part):
                    raise
                self._resolved[part] = False
        return self._resolved[part]

    def _is_here(self, part: Any) -> bool:
        if part not in self._here:
            self._here[part] = part.is_here()
        return self._here[part]


def _parts(experiment: Experiment) -> list[Any]:
    return [experiment.model, *experiment.texts.values(), *experiment.evaluation.zero_shot]


def table_name(name: str, overrides: Iterable[str]) -> str:
    """Name of the files with a sweep's table: ``NAME``, or ``NAME-`` and 8 hex digits that equal overrides share.

    Overrides that say where and how to run change no number, so they change no name.
    """
    telling = changes(overrides)
    return f"{name}-{hashlib.sha256(' '.join(telling).encode()).hexdigest()[:8]}" if telling else name


def changes(overrides: Iterable[str]) -> list[str]:
    """Those overrides that can change what is in a table, sorted; a table under a name of its own says them."""
    return sorted(text for text in overrides if not NOT_IN_A_TABLE.match(text))


def _first(jobs: list[str]) -> str:
    return f"the job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs, the first {jobs[0]}"


def _some(jobs: list[str]) -> str:
    more = len(jobs) - SHOWN
    return ", ".join(jobs[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shortened(jobs: list[list[str]]) -> list[str]:
    """Each job by those of its overrides that not all jobs have."""
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [" ".join(text for text in job if text not in common) or "the one without overrides" for job in jobs]


def expand(name: str, overrides: list[str]) -> list[list[str]]:
    """The overrides of each job.

    Command-line overrides replace what the file says of the same key, and may be axes themselves; what the file says
    for a model replaces its ``base`` and ``axes`` in the jobs on that model.

    Raises:
        RequestError: if there is no such sweep or its file is not one.
    """
    content = read(name)
    command_line = dict(_split(text) for text in overrides)
    if "seeds" in command_line:  # As in the file; not a key of the config.
        content["seeds"] = _seeds(parse_yaml(command_line.pop("seeds"), "seeds"), "command line")
    seeds = {"seed": ",".join(map(str, content["seeds"]))}
    jobs: list[list[str]] = []
    for axes in content["axes"]:
        grids = [{**content["base"], **seeds, **axes, **command_line}]
        if content["models"]:
            of_models = {model: content["models"].get(model, {}) for model in _models(name, grids[0])}
            grids = [{**grids[0], **own, **command_line, "model": model} for model, own in of_models.items()]
        for grid in grids:
            jobs += compose.expand(grid)
    return jobs


def _models(name: str, grid: Mapping[str, str]) -> list[str]:
    """Those of a grid."""
    if "model" not in grid:
        raise RequestError(f"sweeps/{name}.yaml: models needs a model in base or axes, such as model: smollm2_135m")
    return [text.partition("=")[2] for (text,) in compose.expand({"model": grid["model"]})]


def read(name: str) -> dict[str, Any]:
    """A sweep file, checked: ``base``, each of ``axes`` and each of ``models`` map keys to strings.

    What stands under ``search`` is not checked here.

    Raises:
        RequestError: naming what is wrong.
    """
    known = list(sweeps())
    if name not in known:
        raise RequestError(f"sweep {name}: no such sweep" + among(name, known))
    path = folder("sweeps") / f"{name}.yaml"
    content = read_yaml(path, f"sweeps/{path.name}")
    if not isinstance(content, Mapping) or not content:
        raise RequestError(
            f"sweeps/{path.name}: describes no sweep; it must have base (overrides of all jobs) or axes (what is "
            "varied), and may have seeds, models, unfit and search; see docs/sweeps.md"
        )
    strange = sorted(map(str, set(content) - set(KEYS)))
    if strange:
        raise RequestError(f"sweeps/{path.name}: unknown key {strange[0]}" + among(strange[0], list(KEYS)))
    seeds = _seeds(content.get("seeds", [0]), f"sweeps/{path.name}")
    axes = content.get("axes", [{}])
    if not axes:
        raise RequestError(f"sweeps/{path.name}: axes is empty; name at least one key to vary, or leave axes out")
    grids = axes if isinstance(axes, list) else [axes]
    if not {"base", "axes"} & set(content):
        raise RequestError(f"sweeps/{path.name}: has neither base nor axes, so it would run the default; name some")
    unfit = content.get("unfit", UNFIT[0])
    if unfit not in UNFIT:
        raise RequestError(f"sweeps/{path.name}: unfit must be one of {', '.join(UNFIT)}; got {unfit!r}")
    return {
        "base": _overrides(content.get("base", {}), "base", path),
        "axes": [_overrides(grid, f"axes[{i}]", path) for i, grid in enumerate(grids)],
        "seeds": seeds,
        "models": _of_models(content.get("models", {}), path),
        "unfit": unfit,
        "search": content.get("search"),
    }


def _of_models(models: Any, path: Path) -> dict[str, dict[str, str]]:
    """Overrides by model name; one entry of the file may name several models."""
    if not isinstance(models, Mapping):
        raise RequestError(f"sweeps/{path.name}: models must map names of models to overrides; got {models!r}")
    known = list(groups()["model"])
    found: dict[str, dict[str, str]] = {}
    for names, grid in models.items():
        overrides = _overrides(grid, f"models.{names}", path)
        if "model" in overrides:
            raise RequestError(f"sweeps/{path.name}: models.{names}.model would make it another model; remove it")
        for name in map(str.strip, str(names).split(",")):
            if name not in known:
                raise RequestError(f"sweeps/{path.name}: models.{name}: no such model" + among(name, known))
            if name in found:
                raise RequestError(f"sweeps/{path.name}: models names {name} twice; say all of it in one entry")
            found[name] = overrides
    return found


def _seeds(seeds: Any, where: str) -> list[int]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise RequestError(f"{where}: seeds must be a list of integers, such as [0, 1, 2]; got {seeds!r}")
    return seeds


def _overrides(grid: Any, where: str, path: Path) -> dict[str, str]:
    if not isinstance(grid, Mapping):
        raise RequestError(f"sweeps/{path.name}: {where} must map config keys to values; got {grid!r}")
    for key, value in grid.items():
        if not isinstance(key, str) or not key.strip():
            raise RequestError(f"sweeps/{path.name}: {where} has a key that names nothing; got {key!r}")
        if isinstance(value, list | dict) or value in (None, ""):
            raise RequestError(
                f"sweeps/{path.name}: {where}.{key} must be in Hydra's sweep grammar, such as 'a,b'; got {value!r}"
            )
    return {key: _text(value) for key, value in grid.items()}


def _text(value: Any) -> str:
    """As it would be typed; YAML's booleans are not Python's."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError([f"{text}: is not KEY=VALUE; an override looks like model=tiny"])
    return key, value
