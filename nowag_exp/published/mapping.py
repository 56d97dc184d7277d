"""From a published row to the config that reproduces it: which options, with which settings, or why there is none.

Every rule is here, and each reads columns of the row alone, or facts about its paper (``papers.py``). What a source
leaves open is filled in, so that the row can be run, and said (:attr:`Choice.unstated`), so that it is not compared.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any

import yaml

from nowag_exp.layout import folder, groups
from nowag_exp.patterns import UNSTRUCTURED, parse_pattern
from nowag_exp.published.papers import paper_of
from nowag_exp.published.rows import Published

CALIBRATED = {"wanda": "c4", "sparsegpt": "c4", "gptq": "c4", "nowag_p": "redpajama", "nowag_vq": "redpajama"}
"""Methods that are calibrated, and the calibration set of their own papers, for rows that name none."""

PRUNERS = ("magnitude", "wanda", "sparsegpt", "nowag_p")
INTEGER = ("rtn", "gptq")

TEXTS = {
    "wikitext2": ("wikitext2",),
    "c4": ("c4_windows", "c4_joined"),
    "c4_new": ("c4_windows", "c4_joined"),
    "wiki_sample": ("wiki_sample",),
}
"""Data sets of perplexities, and the options that are windows of them."""

UNSTATED_CONTEXT = 2048
"""Evaluation context of rows that name none: the LLaMA3 study's, whose other rows have this one."""

OTHER_ZERO_SHOT = "full_zero_shot"
"""The suite for papers without one of their own, in lm-eval 0.4's own defaults."""

MEAN = "mean"
"""Task of rows that are the mean over a suite."""

WITHOUT_ACC_NORM = ("winogrande", "rte", "boolq")
"""Tasks that have only acc."""


@dataclass(frozen=True)
class Choice:
    """An option of a config group, and the settings that the row fixes.

    Attributes:
        settings: by key; ``None`` is YAML's null.
        unstated: what the source leaves open and was filled in, in words.
    """

    option: str
    settings: dict[str, Any]
    unstated: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotRunnable:
    """Why no experiment here reproduces a row."""

    reason: str


@dataclass(frozen=True)
class Needed:
    """What reproduces a row.

    Attributes:
        compression: overrides of model, calibration and method: rows that share them share an experiment.
        evaluation: of the row's metric.
    """

    compression: tuple[str, ...]
    evaluation: Choice

    def overrides(self) -> list[str]:
        """All of them."""
        return [*self.compression, *evaluation_overrides([self.evaluation])]


def overrides_of(row: Published) -> list[str] | NotRunnable:
    """The overrides of the experiment that reproduces a row, or why there is none."""
    found = needed(row)
    return found if isinstance(found, NotRunnable) else found.overrides()


def needed(row: Published) -> Needed | NotRunnable:
    """What reproduces a row, model and calibration apart from the evaluation."""
    if reason := _obstacle(row):
        return NotRunnable(reason)
    evaluation = evaluation_of(row)
    assert evaluation is not None, "a metric without an option is an obstacle"
    compression = [f"model={row.model}"]
    for group, choice in (("calibration", calibration_of(row)), ("method", method_of(row))):
        if choice is not None:
            compression += [f"{group}={choice.option}", *_assignments(group, choice)]
    return Needed(tuple(compression), evaluation)


def evaluation_overrides(choices: list[Choice]) -> list[str]:
    """One evaluation of several options, each at its settings."""
    names = [choice.option for choice in choices]
    which = f"evaluation={names[0]}" if len(names) == 1 else f"evaluation=[{','.join(names)}]"
    return [which, *(text for choice in choices for text in _assignments(f"evaluation.{choice.option}", choice))]


def method_of(row: Published) -> Choice:
    """The method with its pattern or grid."""
    if row.method in PRUNERS:
        removed = re.fullmatch(r"unstructured_(\d+)", row.sparsity_pattern)
        if removed:
            return Choice(row.method, {"pattern": UNSTRUCTURED, "sparsity": int(removed[1]) / 100})
        return Choice(row.method, {"pattern": row.sparsity_pattern})
    if row.method in INTEGER:
        # A fraction is what the scales of a group take: 2.125 bits are 2 bits in groups of 128.
        bits = None if row.bits is None else int(row.bits)
        return Choice(row.method, {"bits": bits, "group_size": group_size(row)})
    if row.method == "nowag_vq":
        d = re.search(r"\bd=(\d+)", row.table)
        return Choice(row.method, {"d": int(d[1]) if d else None, "bits": row.bits})
    return Choice(row.method, {})


def group_size(row: Published) -> int | None:
    """Columns that share a grid, which stand in ``table`` (``W3A16g128``, ``group 128``); ``None``: one grid a row."""
    if "GPTQ quoted from arXiv 2404.14047" in row.table:
        return 128  # The values are those of that paper's group-128 rows.
    stated = re.search(r"(?:W\dA16g|group )(\d+)", f"{row.table} {row.calibration}")
    return int(stated[1]) if stated else None


def calibration_of(row: Published) -> Choice | None:
    """The calibration set, its number of sequences and their length; ``None`` for a method without calibration."""
    if row.method not in CALIBRATED:
        return None
    stated = re.match(
        r"(?P<name>c4|redpajama|wikitext2|wiki_sample)\b"
        r"(?: (?P<n>\d+)(?:x(?P<context>\d+)| segments))?(?:, seqlen (?P<seqlen>\d+))?",
        row.calibration,
    )
    name = stated["name"] if stated else None
    n = stated["n"] if stated else None
    context = (stated["context"] or stated["seqlen"]) if stated else None
    found = {"calibration set": name, "number of calibration sequences": n, "calibration context": context}
    settings = {"n_sequences": int(n)} if n else {}
    if context or row.context_length:  # The tools have one length for both.
        settings["context_length"] = int(context) if context else int(row.context_length or 0)
    unstated = tuple(words for words, value in found.items() if value is None)
    return Choice(name or CALIBRATED[row.method], settings, unstated)


def evaluation_of(row: Published) -> Choice | None:
    """The option that measures the row's metric; ``None`` if none does."""
    if row.metric == "accuracy":
        return _zero_shot(row)
    if row.metric not in ("perplexity", "kl", "top1_agreement") or row.task not in TEXTS:
        return None
    unstated = () if row.context_length else ("evaluation context",)
    option = TEXTS[row.task][0]
    if row.task == "c4_new":
        option = "c4_joined"
    elif row.task == "c4":
        stated = paper_of(row.paper).c4
        option, unstated = stated or option, unstated if stated else (*unstated, "which C4 windows")
    return Choice(option, {"context_length": row.context_length or UNSTATED_CONTEXT}, unstated)


def _zero_shot(row: Published) -> Choice | None:
    paper = paper_of(row.paper)
    option = paper.suite or OTHER_ZERO_SHOT
    if row.task not in literals("evaluation", option)["tasks"] and not (row.task == MEAN and paper.suite):
        return None
    settings: dict[str, Any] = {} if paper.suite else {"bos": "first"}
    if option == "wanda_zero_shot" and row.model in ("llama1_65b", "llama2_70b"):
        settings["limit"] = 2000  # In its code.
    unstated = () if paper.lm_eval else ("lm-eval version",)
    if row.task != MEAN and stated_accuracy(row) is None:
        unstated = (*unstated, "acc or acc_norm")
    return Choice(option, settings, unstated)


def stated_accuracy(row: Published) -> str | None:
    """``acc`` or ``acc_norm``; ``None`` if the source does not say."""
    if row.task in WITHOUT_ACC_NORM:
        return "acc"
    stated = re.search(r"\((acc_norm|acc)\b", row.table)
    return stated[1] if stated else paper_of(row.paper).accuracy


def _obstacle(row: Published) -> str | None:
    """Why a row cannot be reproduced here; ``None`` if it can."""
    if row.metric in ("seconds", "gigabytes"):
        return "a cost, which depends on the machine"
    if row.model not in _options("model"):
        return f"{row.model} is not a model here"
    if row.method not in _options("method"):
        return f"{row.method} is not implemented"
    if row.finetuned != "no":
        return "fine-tuned, which ours never are" if row.finetuned != "unknown" else "may be fine-tuned: it is not said"
    if "--true-sequential" in row.calibration:
        return "GPTQ with --true-sequential is not implemented"
    if evaluation_of(row) is None:
        return "a mean over other tasks than any suite here" if row.task == MEAN else f"{row.task} is not measured here"
    for name, value in method_of(row).settings.items():
        if value is None and name != "group_size":
            return f"the row does not say method.{name}"
    return _width_problem(row)


def _width_problem(row: Published) -> str | None:
    n_of_m = None if row.sparsity_pattern.startswith(("none", UNSTRUCTURED)) else parse_pattern(row.sparsity_pattern)
    for width in _input_widths(row.model):
        if n_of_m and width % n_of_m.m:
            return f"{n_of_m.m} does not divide the {width} inputs of a linear of {row.model}"
    return None


@functools.cache
def _input_widths(model: str) -> list[int]:
    """Of the linears, from the model's YAML, so that they are known before a checkpoint is here."""
    content = yaml.safe_load((folder("conf") / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
    sizes = content.get("architecture")
    if sizes is None:
        return []
    return sorted({sizes["hidden_size"], sizes["intermediate_size"], sizes["n_heads"] * sizes["head_dim"]})


@functools.cache
def _options(group: str) -> frozenset[str]:
    return frozenset(groups()[group])


@functools.cache
def literals(group: str, option: str) -> dict[str, Any]:
    """What an option's YAML fixes: its values, interpolations left out."""
    content = yaml.safe_load((folder("conf") / group / f"{option}.yaml").read_text(encoding="utf-8"))
    return {
        key: value
        for key, value in content.items()
        if key != "defaults" and not isinstance(value, dict) and not str(value).startswith("${")
    }


def _assignments(key: str, choice: Choice) -> list[str]:
    return [f"{key}.{name}={'null' if value is None else value}" for name, value in choice.settings.items()]
