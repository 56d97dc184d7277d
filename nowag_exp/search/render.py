"""The trials of a search, best first, as text."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from nowag_exp.evaluation.significance import LEVEL
from nowag_exp.records.pairing import Measured, compare_strata, is_better
from nowag_exp.records.record import RunRecord
from nowag_exp.search.space import overrides
from nowag_exp.search.study import Search
from nowag_exp.search.trial import Trial

MOST_REASONS = 5
MOST_SHOWN = 10


def render_trials(search: Search) -> str:
    """The table, the best against the others, the Pareto front, what was not run, and the best one's command."""
    trials = search.trials()
    done = [trial for trial in trials if trial.objective is not None]
    parts = []
    if search.ended_early:
        parts.append(f"stopped after {len(done)} of {search.request.trials} trials: {search.ended_early}")
    if done:
        done.sort(key=lambda trial: _cost(search, trial))
        records = {trial.number: search.record(trial) for trial in done}
        front = pareto([(_bits(trial, records), _cost(search, trial)) for trial in done])
        parts.append(_table(search, done, records, front))
        parts.append(_against_others(search, done, records))
    parts += _not_run(trials)
    if done:
        best = [*overrides(search.request.base), *overrides(done[0].values)]
        parts.append(f"the best one again: nowag-exp run {shlex.join(best)}")
    return "\n\n".join(parts) + "\n"


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other one beats: none is as small in both and smaller in one."""
    return [
        not any(other[0] <= point[0] and other[1] <= point[1] and other != point for other in points)
        for point in points
    ]


def _cost(search: Search, trial: Trial) -> float:
    assert trial.objective is not None
    return trial.objective if search.request.minimise else -trial.objective


def _bits(trial: Trial, records: Mapping[int, RunRecord]) -> float:
    return records[trial.number].compression.bits_per_weight


def _table(search: Search, done: Sequence[Trial], records: Mapping[int, RunRecord], front: Sequence[bool]) -> str:
    rows = []
    for rank, (trial, on_front) in enumerate(zip(done, front, strict=True)):
        measured = _measured(search, trial, records)
        error = measured.standard_error
        rows.append(
            [
                str(trial.number),
                *(_shown(value) for value in trial.values.values()),
                f"{_bits(trial, records):.4g}",
                f"{measured.value:.6g}" + ("" if error is None else f" ± {error:.2g}"),
                ", ".join(["best"] * (rank == 0) + ["Pareto"] * on_front),
            ]
        )
    headers = ["trial", *search.request.space, "bits", f"{search.metric} {search.protocol}", ""]
    table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return f"{table}\n\nPareto: no other trial has as few bits a weight and as good a value. ± is the standard error."


def _measured(search: Search, trial: Trial, records: Mapping[int, RunRecord]) -> Measured:
    record = records[trial.number]
    return Measured(search.results, [record], [search.objective(record)])


def _against_others(search: Search, done: Sequence[Trial], records: Mapping[int, RunRecord]) -> str:
    """The best against each other one.

    It was chosen from all by the values that are tested, so any of the ``n (n - 1) / 2`` pairs could have been the one:
    each p is multiplied by their number (Bonferroni).
    """
    if len(done) < 2:
        return "one trial alone has nothing to be better than"
    best, *others = (_measured(search, trial, records) for trial in done)
    n_pairs = len(done) * (len(done) - 1) // 2
    worse: list[str] = []
    unknown: list[str] = []
    for trial, other in zip(done[1:], others, strict=True):
        found = compare_strata(other.strata(), best.strata())
        shown = found is not None and n_pairs * found.p_value < LEVEL and is_better(best.name, found.value, 0)
        (worse if shown else unknown).append(str(trial.number))
    lines = [
        f"trial {done[0].number}, the best of {len(done)}, is shown to be better than {len(worse)} of the other "
        f"{len(others)} (paired test, p < {LEVEL} after adjustment for all {n_pairs} pairs it was chosen from)."
    ]
    if unknown:
        listed = ", ".join(unknown[:MOST_SHOWN]) + (" ..." if len(unknown) > MOST_SHOWN else "")
        lines.append(f"Not shown: that it is better than trial {listed}.")
    if best.is_random:
        lines.append(
            "That is of these runs. Of the settings nothing is shown, one seed each: run the best few with three seeds "
            "or more, and compare them."
        )
    lines.append(f"The best of {len(done)} was chosen by the value shown, which flatters it: measure it on other text.")
    return "\n".join(lines)


def _not_run(trials: Sequence[Trial]) -> list[str]:
    """Why suggestions were not run, and which trials failed."""
    lines = []
    reasons = Counter(str(trial.reason) for trial in trials if trial.outcome == "unfit")
    if reasons:
        lines.append(f"{sum(reasons.values())} suggestions did not fit and were not run:")
        lines += [f"  {n} x {reason}" for reason, n in reasons.most_common(MOST_REASONS)]
        if len(reasons) > MOST_REASONS:
            lines.append(f"  and {len(reasons) - MOST_REASONS} other reasons")
    n_repeated = sum(trial.outcome == "repeated" for trial in trials)
    if n_repeated:
        lines.append(f"not run again: {n_repeated} suggestions that an earlier trial had tried")
    for trial in trials:
        if trial.outcome == "failed":
            lines.append(f"trial {trial.number}, {' '.join(overrides(trial.values))}: failed, {trial.reason}")
    running = [str(trial.number) for trial in trials if trial.outcome == "running"]
    if running:
        lines.append(f"running in another process: trial {', '.join(running)}")
    return ["\n".join(lines)] if lines else []


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
