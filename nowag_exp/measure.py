"""The measurements of one experiment: of the dense model, which it is held against, then of the compressed one."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pandas as pd

from nowag_exp.config import Experiment
from nowag_exp.evaluation import (
    Metric,
    Perplexity,
    ZeroShot,
    fidelity_metrics,
    last_states,
    noise_floor,
    score_windows,
    window_metrics,
)
from nowag_exp.evaluation.zero_shot import SuiteOutcome, score, with_flips
from nowag_exp.ledger import Ledger
from nowag_exp.models import CausalLM
from nowag_exp.progress import Reporter
from nowag_exp.records.pairing import MEAN, NOISE_FLOOR
from nowag_exp.records.provenance import CostMeter
from nowag_exp.reference import DenseOutcomes, DenseStates
from nowag_exp.text import DrawnTokens
from nowag_exp.unfinished import Unfinished


class Evaluator:
    """Measures what an experiment asks for.

    Args:
        experiment: with its set of measurements.
        tokens: gives the windows of a text, by its config key.
        unfinished: metrics of an interrupted run, which are taken over.
        meter: of the costs, stages ``reference``, ``reference_items``, ``evaluation`` and ``zero_shot``.
        ledger: overlapping windows, truncated items and damaged store entries go there.
        reporter: shows progress.
    """

    def __init__(
        self,
        experiment: Experiment,
        tokens: Callable[[str], DrawnTokens],
        unfinished: Unfinished,
        meter: CostMeter,
        ledger: Ledger,
        reporter: Reporter,
    ) -> None:
        self._experiment, self._evaluation = experiment, experiment.evaluation
        self._tokens, self._meter, self._ledger, self._reporter = tokens, meter, ledger, reporter
        self._unfinished = unfinished
        self._dense_states: dict[str, DenseStates] = {}
        self._dense_outcomes: dict[str, SuiteOutcome] = {}

    def look_at_dense(self, model: CausalLM) -> None:
        """Find or make what the dense model gives on the same tokens and items; the model must be that still."""
        if not self._evaluation.fidelity:
            return
        store, identity = self._unfinished.store, self._experiment.model.identity()
        if self._evaluation.perplexities:
            kept: list[float] = []
            n_windows = 0
            with self._meter.stage("reference"):
                for text in self._evaluation.perplexities:
                    tokens = self._tokens(text.key)
                    states = DenseStates(store, identity, tokens.sha256, self._ledger)
                    with self._reporter.stage(f"dense model, {text.protocol}: windows", len(tokens.ids)) as tick:
                        batch_size = self._experiment.batch_size(text)
                        kept += states.prepare(model, tokens.ids, batch_size, tick, self._reporter.stage)
                    n_windows += len(tokens.ids)
                    self._dense_states[text.key] = states
                self._meter.add_earlier("reference", sum(kept))
            if len(kept) == n_windows:
                self._meter.stages["reference"] = replace(self._meter.stages["reference"], reused=True)
        if self._evaluation.zero_shot:
            with self._meter.stage("reference_items"):
                outcomes = DenseOutcomes(store, identity, self._ledger)
                self._dense_outcomes = outcomes.get(
                    self._evaluation.zero_shot, lambda missing: self._score(model, missing, "dense model, ")
                )

    def measure(self, model: CausalLM) -> tuple[list[Metric], pd.DataFrame | None]:
        """All metrics of the model as it is now, and the zero-shot items if there are suites."""
        metrics: list[Metric] = []
        if self._evaluation.perplexities:
            with self._meter.stage("evaluation"):
                for text in self._evaluation.perplexities:
                    note_drawn(self._tokens(text.key), text.key, self._ledger)
                    metrics += self._unfinished.metrics(text.key) or self._measure_windows(model, text)
        if not self._evaluation.zero_shot:
            return metrics, None
        with self._meter.stage("zero_shot"):
            outcomes = self._answer(model)
        for suite in self._evaluation.zero_shot:
            note_marked(suite.marked_files(), suite.key, self._ledger)
        for outcome in outcomes:
            self._note_truncated(outcome)
            metrics += outcome.metrics
        items = pd.concat([outcome.items.assign(suite=outcome.suite) for outcome in outcomes], ignore_index=True)
        return metrics, items

    def _measure_windows(self, model: CausalLM, text: Perplexity) -> list[Metric]:
        """Perplexity on one text, and how far from the dense model the model is there; kept until there is a record."""
        started = time.perf_counter()
        metrics = self._metrics_of_windows(model, text)
        self._unfinished.keep_metrics(text.key, metrics, time.perf_counter() - started)
        return metrics

    def _metrics_of_windows(self, model: CausalLM, text: Perplexity) -> list[Metric]:
        tokens, batch_size = self._tokens(text.key), self._experiment.batch_size(text)
        dense = self._dense_states.get(text.key)
        with self._reporter.stage(f"{text.protocol}: windows", len(tokens.ids)) as tick:
            reference = None if dense is None else dense.windows(model, tokens.ids)
            if reference is not None and self._experiment.is_dense:
                scores = score_windows(model, tokens.ids, reference, None, tick)
            else:
                own = last_states(model, tokens.ids.split(batch_size), stage=self._reporter.stage)
                scores = score_windows(model, tokens.ids, own, reference, tick)
        details = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "n_predicted": tokens.ids.numel() - len(tokens.ids),
            "version": text.version,
        }
        metrics = window_metrics(text.protocol, tokens.sha256, scores, details)
        first = DrawnTokens(tokens.ids[: self._evaluation.noise_floor_windows], 0)
        if dense is None or not self._experiment.is_dense or not len(first.ids):
            return metrics
        with self._reporter.stage(f"{text.protocol}: dense model in bfloat16 and float32", len(first.ids)) as tick:
            floor = noise_floor(model, first.ids, batch_size, tick, self._reporter.stage)
        between = {"dtypes": "bfloat16 against float32"}
        return [*metrics, *fidelity_metrics(text.protocol, first.sha256, floor, between, NOISE_FLOOR)]

    def _answer(self, model: CausalLM) -> list[SuiteOutcome]:
        """The outcomes of all suites, held against the dense model's."""
        suites, dense = self._evaluation.zero_shot, self._dense_outcomes
        if dense and self._experiment.is_dense:
            return [dense[suite.key] for suite in suites]
        outcomes = self._score(model, suites, "")
        if not dense:
            return outcomes
        return [with_flips(outcome, dense[suite.key]) for suite, outcome in zip(suites, outcomes, strict=True)]

    def _score(self, model: CausalLM, suites: Sequence[ZeroShot], who: str) -> list[SuiteOutcome]:
        names, n_items = ", ".join(suite.name for suite in suites), sum(suite.n_items() for suite in suites)
        with self._reporter.stage(f"{who}{names}: items", n_items) as tick:
            folder, batch_tokens = self._experiment.model.folder(), self._experiment.runtime.batch_tokens
            return score(model, folder, suites, batch_tokens, tick, self._reporter.stage)

    def _note_truncated(self, outcome: SuiteOutcome) -> None:
        truncated = {metric.protocol: metric.details.get("n_truncated", 0) for metric in outcome.metrics}
        truncated.pop(f"{outcome.suite}/{MEAN}", None)
        for protocol, count in truncated.items():
            if count:
                self._ledger.add("truncated_items", protocol, "requests lost the beginning of their context", count)


def note_drawn(tokens: DrawnTokens, key: str, ledger: Ledger) -> None:
    """Write down windows that share text with another, and byte-order marks that were left out."""
    if tokens.n_overlapping:
        detail = f"of {len(tokens.ids)} windows, this many share text with another"
        ledger.add("overlapping_windows", key, detail, tokens.n_overlapping)
    note_marked(tokens.marked, key, ledger)


def note_marked(names: Iterable[str], key: str, ledger: Ledger) -> None:
    """Write down files whose byte-order mark was left out."""
    for name in names:
        ledger.add("byte_order_marks", key, f"{name} opens with a byte-order mark, which was left out of its text")
