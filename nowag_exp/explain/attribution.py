"""The gap between two records, attributed: the first one's experiment with one factor of the second at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.evaluation.significance import Difference
from nowag_exp.execution import run_all
from nowag_exp.experiment import Workbench, check, recorded
from nowag_exp.explain.factors import Factor, evaluation_factor, factors
from nowag_exp.progress import Reporter
from nowag_exp.records.comparison import compare_records
from nowag_exp.records.pairing import MEAN, NOISE_FLOOR, Measured, compare_strata
from nowag_exp.records.record import RunRecord
from nowag_exp.runner import Outcome

Found = tuple[Path, RunRecord]
"""A record, and the results folder that it is in."""

Run = Callable[[list[Experiment]], list[Outcome]]


@dataclass(frozen=True)
class Effect:
    """What one factor alone does to one metric.

    Attributes:
        factor: changed alone.
        value: of the metric then; ``None`` if it is not known.
        found: against the value without it, paired; ``None`` for a single window.
        remark: why there is no value, or what else is to be said.
    """

    factor: Factor
    value: float | None
    found: Difference | None
    remark: str = ""


@dataclass(frozen=True)
class Gap:
    """One metric of both, taken apart.

    Attributes:
        metric: its name.
        protocol: of the second record's value, and of all others but the first's if ``measured_otherwise``.
        a: value of the first.
        b: value of the second.
        otherwise: the first one measured as the second is, where its own measurement is another one; effects are then
            against this value.
        effects: of the factors, one at a time.
        total: of all of them together.
        interaction: what the total has beyond the sum of the known effects; ``None`` for a single window.
    """

    metric: str
    protocol: str
    a: float
    b: float
    otherwise: Metric | None
    effects: list[Effect]
    total: Difference | None
    interaction: Difference | None

    @property
    def is_complete(self) -> bool:
        """Whether every factor's effect is known."""
        return all(effect.value is not None for effect in self.effects)


@dataclass(frozen=True)
class Job:
    """An experiment to be run, or to be found recorded.

    Attributes:
        name: what it is, for people.
        experiment: ``None`` if it is impossible.
        known: its record, if there is one.
        problem: why it is impossible.
    """

    name: str
    experiment: Experiment | None
    known: Found | None
    problem: str = ""


@dataclass(frozen=True)
class Attribution:
    """What has to be run to attribute a gap.

    Attributes:
        jobs: A, B, A measured as B if that is another measurement, and A with each factor.
        factors: in the order of their jobs, which are the last ones.
        measured_otherwise: whether the evaluation is a factor, too.
        results: where new records are kept.
    """

    jobs: list[Job]
    factors: list[Factor]
    measured_otherwise: bool
    results: Path

    def describe(self) -> str:
        """The experiments, a line each, under one that counts them."""
        possible = [job for job in self.jobs if job.experiment]
        n_known = sum(job.known is not None for job in possible)
        heading = f"{len(possible)} experiments, {n_known} recorded already, {len(possible) - n_known} to run"
        return "\n".join([heading, *(f"  {job.name}: {_state(job)}" for job in self.jobs)])

    def run(self, bench: Workbench, reporter: Reporter) -> list[Gap]:
        """Run what is not recorded, and take apart the gap of each headline metric and of every other that differs.

        Raises:
            RequestError: if A or B cannot be had, or they have no metric on the same tokens.
        """
        missing = {
            job.experiment.fingerprint: job.experiment for job in self.jobs if job.experiment and job.known is None
        }
        outcomes = {
            outcome.experiment.fingerprint: outcome for outcome in run_all(list(missing.values()), bench, reporter)
        }
        found: list[Found | str] = []
        for job in self.jobs:
            if job.experiment is None:
                found.append(job.problem)
                continue
            outcome = outcomes.get(job.experiment.fingerprint)
            if job.known is not None:
                found.append(job.known)
            elif outcome is not None and outcome.record is not None:
                found.append((self.results, outcome.record))
            else:
                found.append(f"failed: {outcome.failure if outcome else 'was not run'}")
        n_references = 3 if self.measured_otherwise else 2
        references = found[:n_references]
        for job, reference in zip(self.jobs, references, strict=False):
            if isinstance(reference, str):
                raise RequestError(f"{job.name} cannot be had here, so nothing can be attributed: {reference}")
        a, b, *others = [reference for reference in references if not isinstance(reference, str)]
        return _gaps(a, b, others[0] if others else None, self.factors, found[n_references:], self.jobs[n_references:])


def plan_attribution(a: Found, b: Found, results: Path, bench: Workbench) -> Attribution | None:
    """Which experiments attribute the gap; each is checked.

    Returns:
        ``None`` if no setting that changes a number differs: then there is nothing to change one at a time.

    Raises:
        RequestError: if A or B cannot be run here.
    """
    (_, first), (_, second) = a, b
    found = factors(first.config, second.config)
    otherwise = not _shared(first, second)
    if not found and not otherwise:
        return None
    reference = evaluation_factor(first.config, second.config).apply(first.config) if otherwise else first.config
    if otherwise and first.identity["evaluation"] == second.identity["evaluation"]:
        raise RequestError(
            "A and B measured the same texts in other tokens (their tokenizers differ), so their values per token do "
            "not compare, and nothing can be attributed"
        )
    jobs = [
        _job("A", first.config, results, bench, a),
        _job("B", second.config, results, bench, b),
        *([_job("A, measured as B", reference, results, bench)] if otherwise else []),
        *(_job(f"{factor.describe()}", factor.apply(reference), results, bench) for factor in found),
    ]
    base = jobs[2 if otherwise else 0].experiment
    if base and all(job.experiment and job.experiment.fingerprint == base.fingerprint for job in jobs[1:]):
        return None
    return Attribution(jobs, found, otherwise, results)


def experiment_of(config: dict[str, Any], results: Path) -> Experiment:
    """The experiment of a recorded config, kept elsewhere; it sends nothing to a tracker and keeps no checkpoint."""
    changed = {
        "tracking": {"_target_": "nowag_exp.tracking.NoTracking"},
        "checkpoint": {**config["checkpoint"], "save": False},
        "paths": {**config["paths"], "results": str(results)},
    }
    return build_experiment({**config, **changed})


def _job(name: str, config: dict[str, Any], results: Path, bench: Workbench, given: Found | None = None) -> Job:
    try:
        experiment = experiment_of(config, results)
        if given and given[1].fingerprint == experiment.fingerprint:
            return Job(name, experiment, given)
        if given:
            name = f"{name}, whose fingerprint is another one today (our code or its files have changed)"
        record = recorded(experiment)
        if record is not None:
            return Job(name, experiment, (results, record))
        check(experiment, bench)
        return Job(name, experiment, None)
    except RequestError as error:
        return Job(name, None, None, " ".join(str(error).split()))


def _state(job: Job) -> str:
    if job.experiment is None:
        return f"impossible, {job.problem}"
    return f"recorded ({job.experiment.fingerprint})" if job.known else "to run"


def headline(record: RunRecord) -> list[Metric]:
    """What a record is mainly about: perplexities and means of suites, or else all that it has."""
    measured = [metric for metric in record.metrics if not metric.name.startswith(NOISE_FLOOR)]
    main = [metric for metric in measured if metric.name == "perplexity" or metric.protocol.endswith(f"/{MEAN}")]
    return main or measured


def find_metric(record: RunRecord, wanted: Metric) -> Metric | None:
    """The same metric of another record, if it is there on the same tokens."""
    return next(
        (
            metric
            for metric in record.metrics
            if (metric.name, metric.protocol, metric.token_hash) == (wanted.name, wanted.protocol, wanted.token_hash)
        ),
        None,
    )


def strata(found: Found, metric: Metric) -> list[Any]:
    """The values of a metric window by window, or item by item of each task."""
    return Measured(found[0], [found[1]], [metric]).strata()


def _shared(a: RunRecord, b: RunRecord) -> list[Metric]:
    """Headline metrics of the second that the first has on the same tokens."""
    return [metric for metric in headline(b) if find_metric(a, metric)]


def _attributed(a: Found, b: Found) -> list[Metric]:
    """Metrics of the second that the first has on the same tokens: its headline, and others that differ."""
    main = _shared(a[1], b[1])
    if not main:
        return []
    differing = [line.b for line in compare_records(a, b).runs if line.is_shown]
    return main + [metric for metric in differing if metric not in main]


def _counterpart(record: RunRecord, wanted: Metric) -> Metric | None:
    """What a record with another measurement has in its place: the same protocol, or else the first text or suite."""
    alike = [one for one in record.metrics if one.name == wanted.name]
    same = [one for one in alike if one.protocol == wanted.protocol]
    return next(iter(same or [one for one in alike if _is_whole(one) and _is_whole(wanted)]), None)


def _is_whole(metric: Metric) -> bool:
    """Whether it is of a text or a suite, not of one task."""
    return metric.values is not None or metric.protocol.endswith(f"/{MEAN}")


def _gaps(
    a: Found, b: Found, otherwise: Found | None, tried: Sequence[Factor], found: Sequence[Found | str], jobs: list[Job]
) -> list[Gap]:
    base = otherwise or a
    metrics = _attributed(base, b)
    if not metrics:
        raise RequestError(
            "A, measured as B is, has other tokens than B (their tokenizers differ), so nothing can be attributed"
        )
    gaps = []
    for metric in metrics:
        before = find_metric(base[1], metric)
        assert before is not None
        start, end = strata(base, before), strata(b, metric)
        effects, predicted = [], list(start)
        for factor, one, job in zip(tried, found, jobs, strict=True):
            after = None if isinstance(one, str) else find_metric(one[1], metric)
            if isinstance(one, str) or after is None:
                effects.append(Effect(factor, None, None, one if isinstance(one, str) else "on other tokens"))
                continue
            changed = strata(one, after)
            predicted = [sum_ + new - old for sum_, new, old in zip(predicted, changed, start, strict=True)]
            idle = job.experiment is not None and job.experiment.fingerprint == base[1].fingerprint
            remark = "A does not depend on it" if idle else ""
            effects.append(Effect(factor, after.value, compare_strata(start, changed), remark))
        own = find_metric(a[1], metric) or _counterpart(a[1], metric) or before
        gaps.append(
            Gap(
                metric=metric.name,
                protocol=metric.protocol,
                a=own.value,
                b=metric.value,
                otherwise=before if otherwise else None,
                effects=effects,
                total=compare_strata(start, end),
                interaction=compare_strata(predicted, end),
            )
        )
    return gaps


def render_attribution(gaps: Sequence[Gap]) -> str:
    """A table a metric, as text that ends in a line break."""
    return "\n\n".join(_render_gap(gap) for gap in gaps) + "\n"


def _render_gap(gap: Gap) -> str:
    in_nats = gap.metric == "perplexity"
    rows: list[list[str]] = [["A", f"{gap.a:.6g}", "", "", ""]]
    if gap.otherwise:
        step = f"{math.log(gap.otherwise.value / gap.a):+.3g}" if in_nats else f"{gap.otherwise.value - gap.a:+.3g}"
        rows.append(["A, measured as B", f"{gap.otherwise.value:.6g}", step, "", "other tokens, so not tested"])
    for effect in gap.effects:
        value = "-" if effect.value is None else f"{effect.value:.6g}"
        rows.append([f"with {effect.factor.describe()}", value, *_difference(effect.found, in_nats), effect.remark])
    if len(gap.effects) > 1 or not gap.is_complete:
        rest = "interaction" if gap.is_complete else "the rest: interaction and what could not be run"
        rows.append([rest, "", *_difference(gap.interaction, in_nats), ""])
    rows.append(["B", f"{gap.b:.6g}", *_difference(gap.total, in_nats), "all of them"])
    unit = "nats of log-perplexity" if in_nats else "same unit"
    headers = [f"{gap.metric} {gap.protocol}", "value", f"effect, {unit}", "per cent" if in_nats else "", ""]
    note = (
        "Effects are against A with that one factor changed, paired over the same windows or items, ± standard error; "
        "interaction is what B differs by beyond their sum. They are of single runs: what other "
        "seeds would give is not in the error."
    )
    if gap.otherwise:
        note += " They are against A measured as B."
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True) + f"\n\n{note}"


def _difference(found: Difference | None, in_nats: bool) -> list[str]:
    if found is None:
        return ["-", ""]
    percent = f"{100 * math.expm1(found.value):+.3g}%" if in_nats else ""
    return [f"{found.value:+.4g} ± {found.standard_error:.2g}", percent]
