"""Run suites through lm-eval on a loaded model: its tasks, prompts and metrics, our log-likelihoods."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nowag_exp.evaluation.metrics import Metric
from nowag_exp.evaluation.zero_shot.suites import ZeroShot
from nowag_exp.evaluation.zero_shot.tasks import right_answer
from nowag_exp.models.blocks import CausalLM
from nowag_exp.progress import Stage, Tick
from nowag_exp.quiet import quiet_harness
from nowag_exp.text import load_tokenizer, load_transformers_tokenizer

Encoded = Sequence[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class SuiteOutcome:
    """What came out of a suite.

    Attributes:
        suite: its name.
        metrics: of each task, then their unweighted means (``SUITE/mean``) with error ``√(Σ error²) / tasks``. Their
            token hash is :func:`hash_requests` of their items, in the order of tasks, items and choices; their details
            are lm-eval's version, the settings, what fixes the prompts and rows, and how many requests were too long
            for the model and lost the beginning of their context.
        items: a row an item: ``task``; ``item``, its number in the task; ``item_hash``, lm-eval's hash of its content;
            ``target``, ``answer`` and ``answer_norm``, the indices of the right choice, of the likeliest, and of the
            likeliest per character; ``acc`` and ``acc_norm``, 1 if that is the right one; ``loglikelihoods`` of the
            choices, in nats. ``answer_norm`` and ``acc_norm`` are missing where the task does not define them.
        token_hash: :func:`hash_requests` of all items.
    """

    suite: str
    metrics: list[Metric]
    items: pd.DataFrame
    token_hash: str


def score(
    model: CausalLM,
    tokenizer_folder: Path,
    suites: Sequence[ZeroShot],
    batch_tokens: int,
    tick: Tick,
    stage: Stage | None = None,
) -> list[SuiteOutcome]:
    """Score a model on suites; requests of equal tokens are computed once, whichever suite or task they are from.

    Args:
        model: with the weights to score.
        tokenizer_folder: where its tokenizer is.
        suites: checked (:meth:`ZeroShot.check`).
        batch_tokens: tokens of one forward pass (:class:`~nowag_exp.evaluation.zero_shot.continuations.Continuations`).
        tick: called once an item.
        stage: shows how far a streamed model is.

    Raises:
        RequestError: if the tokenizer lacks a token that a suite asks for, or a suite's :meth:`ZeroShot.check` fails.
        NowagError: if a log-likelihood is not finite, or memory does not suffice for one item.
    """
    from nowag_exp.evaluation.zero_shot.lm import LoadedLM

    tokenizer = load_tokenizer(tokenizer_folder)
    for suite in suites:
        suite.check_tokenizer(tokenizer)
    with quiet_harness():
        lm = LoadedLM(model, load_transformers_tokenizer(tokenizer_folder), batch_tokens, tick, stage)
        return [_score_suite(lm, suite) for suite in suites]


def _score_suite(lm: Any, suite: ZeroShot) -> SuiteOutcome:
    # Not simple_evaluate: it seeds every generator of the process, and asks git and pip about the machine.
    from lm_eval.evaluator import evaluate

    tasks, identity = suite.load_tasks(), suite.identity()
    for task in tasks.values():
        task.set_fewshot_seed(suite.seed)
    lm.bos = suite.bos
    found = evaluate(lm, {"tasks": tasks, "groups": {}}, limit=suite.limit, log_samples=True)

    settings = {
        "lm_eval": identity["lm_eval"],
        **{name: getattr(suite, name) for name in ("n_fewshot", "limit", "seed", "bos")},
    }
    metrics: list[Metric] = []
    items: list[dict[str, Any]] = []
    answered = iter(zip(lm.encoded, lm.truncated, strict=True))
    for name, task in tasks.items():
        encoded, truncated = zip(*islice(answered, len(task.instances)), strict=True)
        details = {**settings, **identity["tasks"][name], "n_truncated": sum(truncated)}
        of_task = [_item(name, task, sample) for sample in found["samples"][name]]
        metrics += _task_metrics(suite, name, found["results"][name], hash_requests(encoded, of_task), details)
        items += of_task
    token_hash = hash_requests(lm.encoded, items)
    if len(tasks) > 1:
        details = {**settings, "tasks": identity["tasks"], "n_truncated": sum(lm.truncated)}
        metrics += _means(suite, metrics, token_hash, details)
    nullable = dict.fromkeys(("answer_norm", "acc_norm"), "Int64")
    return SuiteOutcome(suite.name, metrics, pd.DataFrame(items).astype(nullable), token_hash)


def _task_metrics(
    suite: ZeroShot, task: str, result: dict[str, Any], token_hash: str, details: dict[str, Any]
) -> list[Metric]:
    """Those metrics of a task that are asked for and that it defines; ``none`` is lm-eval's name of no filter."""
    metrics = []
    for name in suite.metrics:
        if f"{name},none" in result:
            error = result[f"{name}_stderr,none"]
            metrics.append(
                Metric(
                    name=name,
                    protocol=f"{suite.name}/{task}",
                    value=float(result[f"{name},none"]),
                    standard_error=None if error == "N/A" else float(error),
                    n=result["sample_len"],
                    token_hash=token_hash,
                    values=None,
                    details=details,
                )
            )
    return metrics


def _means(suite: ZeroShot, metrics: Sequence[Metric], token_hash: str, details: dict[str, Any]) -> list[Metric]:
    """``(1/T) Σ_t v_t ± (1/T) √(Σ_t e_t²)`` over the ``T`` tasks, for each metric that all of them define."""
    means = []
    for name in suite.metrics:
        parts = [metric for metric in metrics if metric.name == name]
        if len(parts) == len(suite.tasks):
            errors = [part.standard_error for part in parts if part.standard_error is not None]
            means.append(
                Metric(
                    name=name,
                    protocol=f"{suite.name}/mean",
                    value=sum(part.value for part in parts) / len(parts),
                    standard_error=math.hypot(*errors) / len(parts) if len(errors) == len(parts) else None,
                    n=sum(part.n for part in parts),
                    token_hash=token_hash,
                    values=None,
                    details=details,
                )
            )
    return means


def _item(task_name: str, task: Any, sample: dict[str, Any]) -> dict[str, Any]:
    loglikelihoods = np.array([loglikelihood for loglikelihood, _ in sample["filtered_resps"]])
    lengths = np.array([len(choice) for choice in task.doc_to_choice(sample["doc"])])
    normalised = "acc_norm" in sample
    return {
        "task": task_name,
        "item": sample["doc_id"],
        "item_hash": sample["doc_hash"],
        "target": right_answer(task, sample["doc"]),
        "answer": int(loglikelihoods.argmax()),
        "answer_norm": int((loglikelihoods / lengths).argmax()) if normalised else None,
        "acc": int(sample["acc"]),
        "acc_norm": int(sample["acc_norm"]) if normalised else None,
        "loglikelihoods": loglikelihoods.tolist(),
    }


def hash_requests(encoded: Encoded, items: Sequence[Mapping[str, Any]]) -> str:
    """Hex sha256 of what was asked: token ids, and the right answer of each item.

    Each request as little-endian int64: both lengths, then context and continuation; then the targets, likewise.
    """
    digest = hashlib.sha256()
    for context, continuation in encoded:
        digest.update(np.array([len(context), len(continuation), *context, *continuation], dtype="<i8").tobytes())
    digest.update(np.array([item["target"] for item in items], dtype="<i8").tobytes())
    return digest.hexdigest()
