"""A search from its first suggestion to its last: what is tried next, and what came of it."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from nowag_exp import interrupt
from nowag_exp.config import Experiment
from nowag_exp.errors import NowagError, RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.execution import Executor
from nowag_exp.experiment import Workbench
from nowag_exp.progress import Reporter
from nowag_exp.records.record import RunRecord, load_record, record_path
from nowag_exp.records.store import content_key
from nowag_exp.runner import Outcome
from nowag_exp.search.fit import Fit, fit
from nowag_exp.search.request import SearchRequest, resolve_objective
from nowag_exp.search.space import overrides, size
from nowag_exp.search.trial import Trial

MOST_TRIED = 200
"""Combinations in a row that do not fit before a search gives up."""

PATIENCE = 5
"""Suggestions in a row that were tried before, after which an untried combination is drawn instead."""


class Search:
    """A search and its journal; a context in which this process takes part in it.

    Args:
        request: what is asked for.
        bench: what this process has loaded.
        reporter: shows progress.

    Raises:
        RequestError: if optuna is missing, no choice fits, or the objective is not measured.
    """

    def __init__(self, request: SearchRequest, bench: Workbench, reporter: Reporter) -> None:
        from nowag_exp.search.journal import Journal

        self.request, self._bench, self._reporter = request, bench, reporter
        distributions = {key: one.distribution() for key, one in request.space.items()}
        self.example = self._first_that_fits()
        self.metric, self.protocol = resolve_objective(request, self.example)
        self.results: Path = self.example.paths.folder
        # The example stands for what the settings refer to: the content of files, the versions of our code.
        identity = {**request.identity(), "example": self.example.fingerprint}
        path = self.results / "searches" / f"{request.name}-{content_key(identity)}.journal"
        self.journal = Journal(path, request.minimise, distributions, request.sampler, request.seed)
        self._mine: dict[str, int] = {}
        self._stack = ExitStack()
        self.ended_early: str | None = None

    def __enter__(self) -> "Search":
        self._forget_lost_records()
        self._stack.enter_context(self.journal.working())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def describe(self) -> str:
        """One line."""
        counts = Counter(trial.outcome for trial in self.trials())
        known = [f"{counts[outcome]} {outcome}" for outcome in ("done", "failed", "running") if counts[outcome]]
        combinations = size(self.request.space)
        space = "infinitely many" if math.isinf(combinations) else f"{combinations:.0f}"
        already = f", {', '.join(known)} already" if known else ""
        direction = "least" if self.request.minimise else "greatest"
        return (
            f"{self.request.trials} trials of {space} combinations for the {direction} {self.metric} {self.protocol}"
            f"{already} (journal: {self.journal.path})"
        )

    def run(self, executor: Executor) -> None:
        """Run trials until there are enough, in all processes together, or nothing is left to try."""
        n_trials = self.request.trials
        with interrupt.graceful(), self._reporter.live(), self._reporter.stage("trials", n_trials) as tick:
            for _ in range(self._n_counted()):
                tick(known=True)
            for outcome in executor.run(self.experiments(), self._bench, self._reporter, self.request.name):
                self.tell(outcome)
                tick()

    def trials(self) -> list[Trial]:
        """All that is known of them, in the order in which they were suggested."""
        return [Trial.of(frozen, self.request.space) for frozen in self.journal.trials()]

    def record(self, trial: Trial) -> RunRecord:
        """The record of a finished trial."""
        assert trial.fingerprint is not None
        return load_record(record_path(self.results, trial.fingerprint))

    def _n_counted(self) -> int:
        return sum(trial.outcome in ("done", "failed", "running") for trial in self.trials())

    def _first_that_fits(self) -> Experiment:
        """Some combination that can be run; the same one every time.

        Raises:
            RequestError: if none is found, with the commonest reason.
        """
        reasons: Counter[str] = Counter()
        drawn = _shuffled(self.request, random.Random(0))
        for values in itertools.islice(drawn, MOST_TRIED):
            found = fit(self.request, values, self._bench)
            if isinstance(found, Fit):
                return found.experiment
            reasons[found] += 1
        reason, n = reasons.most_common(1)[0]
        tried = sum(reasons.values())
        raise RequestError(f"search.space: none of {tried} combinations can be run; of {n} of them: {reason}")

    def _forget_lost_records(self) -> None:
        """Trials whose records are gone are tried again."""
        lost = [
            trial.number
            for trial in self.trials()
            if trial.outcome == "done" and not record_path(self.results, str(trial.fingerprint)).is_file()
        ]
        self.journal.put_up_again(lost)

    def experiments(self) -> Iterator[Experiment]:
        """One trial's experiment whenever there is room for it."""
        while (claimed := self.claim()) is not None:
            number, experiment = claimed
            self._mine[experiment.fingerprint] = number
            yield experiment

    def claim(self) -> tuple[int, Experiment] | None:
        """The next trial that fits and is new; ``None`` if there are enough, or none is left."""
        n_repeated = n_unfit = 0
        with self.journal.lock:
            self.journal.put_up_abandoned(failed=False)
            while self._n_counted() < self.request.trials:
                known = self.trials()
                tried = {trial.choice for trial in known if trial.is_settled}
                if len(tried) >= size(self.request.space):
                    self.ended_early = "every combination has been tried"
                    return None
                if n_unfit >= MOST_TRIED:
                    self.ended_early = f"{MOST_TRIED} suggestions in a row did not fit"
                    return None
                if n_repeated >= PATIENCE:
                    self._suggest_untried(tried, len(known))
                    n_repeated = 0
                asked = Trial.of(self.journal.ask(), self.request.space)
                twin = next((one for one in known if one.is_settled and one.choice == asked.choice), None)
                if twin is None:
                    found = fit(self.request, asked.values, self._bench)
                    if isinstance(found, str):
                        self.journal.tell_unfit(asked.number, found)
                        n_unfit += 1
                        continue
                    fingerprint = found.experiment.fingerprint
                    twin = next((one for one in known if one.is_settled and one.fingerprint == fingerprint), None)
                    if twin is None:
                        self.journal.note(asked.number, fingerprint=fingerprint, bits_per_weight=found.bits_per_weight)
                        return asked.number, found.experiment
                self.journal.note(asked.number, equal_to=twin.number)
                self.journal.tell_failed(asked.number, f"equal to trial {twin.number}")
                n_repeated += 1
        return None

    def _suggest_untried(self, tried: set[tuple[Any, ...]], n_known: int) -> None:
        """Make a combination that was not suggested yet the next suggestion."""
        for values in itertools.islice(_shuffled(self.request, random.Random(n_known)), 100 * MOST_TRIED):
            if tuple(values.values()) not in tried:
                self.journal.suggest(values)
                return

    def tell(self, outcome: Outcome) -> None:
        """Write down what came of one of :meth:`experiments`."""
        number = self._mine.pop(outcome.experiment.fingerprint)
        name = " ".join(overrides(Trial.of(self.journal.trial(number), self.request.space).values))
        if outcome.record is None:
            self.journal.tell_failed(number, f"{outcome.failure} (traceback in {outcome.log_file})")
            self._reporter.say(f"trial {number}, {name}: FAILED, {outcome.failure}")
            return
        value = self.objective(outcome.record).value
        self.journal.tell_value(number, value)
        self._reporter.say(f"trial {number}, {name}: {self.metric} {value:.4f}")

    def objective(self, record: RunRecord) -> Metric:
        """What of a record is optimised.

        Raises:
            NowagError: if it has none.
        """
        # A record that was there may be of the same text under another file name, which is part of the protocol's.
        hashes = {
            self._bench.tokens(self.example, text.key).sha256
            for text in self.example.evaluation.perplexities
            if text.protocol == self.protocol
        }
        for metric in record.metrics:
            if metric.name == self.metric and (metric.protocol == self.protocol or metric.token_hash in hashes):
                return metric
        raise NowagError(f"{record.fingerprint}: has no {self.metric} {self.protocol}; this is a bug, please report it")


def _shuffled(request: SearchRequest, generator: random.Random) -> Iterator[dict[str, Any]]:
    """Combinations in a random order: each once if there are few, drawn independently if not."""
    values = {key: one.values for key, one in request.space.items()}
    finite = [known for known in values.values() if known is not None]
    if len(finite) == len(values) and size(request.space) <= 100 * MOST_TRIED:
        combinations = list(itertools.product(*finite))
        generator.shuffle(combinations)
        for combination in combinations:
            yield dict(zip(values, combination, strict=True))
        return
    while True:
        yield {
            key: generator.uniform(request.space[key].low, request.space[key].high)
            if known is None
            else generator.choice(known)
            for key, known in values.items()
        }
