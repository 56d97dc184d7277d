"""Which published values a measured one is listed with, and what is said of the differences."""

from collections.abc import Callable
from typing import Any

import pytest

from nowag_exp.evaluation import Metric
from nowag_exp.published import Published, counterparts, load_published
from nowag_exp.published.papers import OURS, PAPERS

WANDA = ["model=llama2_7b", "calibration=c4", "method=wanda", "method.pattern=2:4"]


def metric(protocol: str, name: str = "perplexity", value: float = 11.0, **details: Any) -> Metric:
    return Metric(name, protocol, value, 0.1, "f00", 4, None, {"dtype": "float16", **details})


def differences(record: Any, measured: Metric, row: Published) -> list[str] | None:
    found = counterparts(record, measured, [row])
    return list(found[0].differences) if found else None


def test_the_papers_own_protocol_is_comparable(row: Callable[..., Published], record_of: Callable[..., Any]) -> None:
    assert differences(record_of(*WANDA, "evaluation=wikitext2"), metric("wikitext2@4096"), row()) == []


@pytest.mark.parametrize(
    "cells",
    [
        {"model": "llama2_13b"},
        {"method": "sparsegpt"},
        {"sparsity_pattern": "4:8"},
        {"sparsity_pattern": "unstructured_50"},
        {"dataset_or_task": "c4"},
        {"metric": "accuracy", "dataset_or_task": "rte"},
        {"metric": "seconds"},
    ],
)
def test_another_model_method_setting_or_data_set_is_no_counterpart(
    row: Callable[..., Published], record_of: Callable[..., Any], cells: dict[str, str]
) -> None:
    assert differences(record_of(*WANDA, "evaluation=wikitext2"), metric("wikitext2@4096"), row(**cells)) is None


@pytest.mark.parametrize(
    ("changed", "cells", "said"),
    [
        (
            ["evaluation.wikitext2.context_length=2048"],
            {},
            "evaluation.wikitext2.context_length: published 4096, ours 2048",
        ),
        (["calibration.context_length=2048"], {}, "calibration.context_length: published 4096, ours 2048"),
        (["calibration.n_sequences=64"], {}, "calibration.n_sequences: published 128, ours 64"),
        (["calibration=redpajama"], {}, "calibration: published c4, ours redpajama"),
        (["method.propagate=dense"], {}, "method.propagate: published compressed, ours dense"),
        (["evaluation.wikitext2.n_windows=8"], {}, "evaluation.wikitext2.n_windows: published null, ours 8"),
        (["calibration.sampling=random"], {}, "calibration.sampling: published random_in_document, ours random"),
        (["model.dtype=bfloat16"], {}, "model.dtype: published float16, ours bfloat16"),
        ([], {"finetuned": "lora"}, "published after fine-tuning (lora), ours without"),
        ([], {"calibration": ""}, "not stated by the source: calibration set"),
        ([], {"calibration": "c4"}, "not stated by the source: number of calibration sequences"),
        ([], {"context_length": ""}, "not stated by the source: evaluation context"),
    ],
)
def test_everything_else_is_said(
    row: Callable[..., Published], record_of: Callable[..., Any], changed: list[str], cells: dict[str, str], said: str
) -> None:
    record = record_of(*WANDA, "evaluation=wikitext2", *changed)
    context = record.config["evaluation"]["wikitext2"]["context_length"]
    found = differences(record, metric(f"wikitext2@{context}"), row(**cells))
    assert found is not None
    assert said in found
    stated_later = {"number of calibration sequences", "calibration context"}
    assert [text for text in found if text != said and text.rpartition(": ")[2] not in stated_later] == []


@pytest.mark.parametrize(
    ("paper", "task", "option", "said"),
    [
        ("NoWag (arXiv 2504.14569)", "c4", "c4_windows", []),
        ("AQLM (arXiv 2401.06118)", "c4", "c4_joined", ["evaluation: published c4_windows, ours c4_joined"]),
        ("SparseGPT (arXiv 2301.00774)", "c4", "c4_windows", ["evaluation: published c4_joined, ours c4_windows"]),
        ("QuIP# repo README", "c4_new", "c4_windows", ["evaluation: published c4_joined, ours c4_windows"]),
        ("QuIP# repo README", "c4_new", "c4_joined", []),
        ("Convex-CALDERA README (secondary)", "c4", "c4_windows", ["not stated by the source: which C4 windows"]),
        ("Convex-CALDERA README (secondary)", "c4", "c4_joined", ["not stated by the source: which C4 windows"]),
    ],
)
def test_variants_of_c4_are_told_apart(
    row: Callable[..., Published], record_of: Callable[..., Any], paper: str, task: str, option: str, said: list[str]
) -> None:
    published = row(
        paper=paper,
        method="dense",
        sparsity_pattern="none",
        calibration="",
        dataset_or_task=task,
        context_length="4096",
    )
    context = [f"evaluation.{option}.context_length=4096"]
    record = record_of("model=llama2_7b", "method=dense", f"evaluation={option}", *context)
    assert differences(record, metric(f"{option}@4096"), published) == said


def test_integer_grids_are_told_apart_by_bits_and_group(
    row: Callable[..., Published], record_of: Callable[..., Any]
) -> None:
    grid = {"paper": "OmniQuant (arXiv 2308.13137)", "method": "rtn", "sparsity_pattern": "none", "calibration": ""}
    grouped = row(**grid, bits="3", table="Table 1 W3A16g128", context_length="2048")
    by_row = row(**grid, bits="3", table="Table 1 W3A16", context_length="2048")
    evaluation = ["evaluation=wikitext2", "evaluation.wikitext2.context_length=2048"]

    def record(*settings: str) -> Any:
        return record_of("model=llama2_7b", "method=rtn", *settings, *evaluation)

    measured = metric("wikitext2@2048")
    assert differences(record("method.bits=3", "method.group_size=128"), measured, grouped) == []
    assert differences(record("method.bits=3", "method.group_size=128"), measured, by_row) is None
    assert differences(record("method.bits=3", "method.group_size=null"), measured, by_row) == []
    assert differences(record("method.bits=4", "method.group_size=null"), measured, by_row) is None
    searched = record("method.bits=3", "method.group_size=null", "method.search=mse")
    assert differences(searched, measured, by_row) == ["method.search: published minmax, ours mse"]


def test_a_pruner_that_also_rounds_is_another_setting(
    row: Callable[..., Published], record_of: Callable[..., Any]
) -> None:
    pruned = ["model=llama2_7b", "calibration=c4", "method=sparsegpt", "method.pattern=2:4", "evaluation=wikitext2"]
    measured, published = metric("wikitext2@4096"), row(method="sparsegpt")
    assert differences(record_of(*pruned), measured, published) == []
    assert differences(record_of(*pruned, "method.bits=4"), measured, published) is None


def test_accuracies_are_percent_there_and_a_share_here_and_lm_eval_differs(
    row: Callable[..., Published], record_of: Callable[..., Any]
) -> None:
    published = row(metric="accuracy", dataset_or_task="rte", value="53.07", context_length="", table="Table 27")
    record = record_of(*WANDA, "evaluation=wanda_zero_shot")
    (found,) = counterparts(record, metric("wanda_zero_shot/rte", "acc", 0.53, lm_eval="0.4.13"), [published])
    assert found.value == pytest.approx(0.5307)
    assert found.rounding == pytest.approx(0.00005)
    assert found.differences == ("lm-eval: published commit df3da98, ours 0.4.13",)


def test_acc_and_acc_norm_are_told_apart(row: Callable[..., Published], record_of: Callable[..., Any]) -> None:
    record = record_of(
        "model=llama2_7b", "method=dense", "evaluation=full_zero_shot", "evaluation.full_zero_shot.bos=first"
    )

    def said(name: str, table: str, task: str = "piqa") -> list[str]:
        published = row(
            paper="QuIP# (arXiv 2402.04396)",
            table=table,
            method="dense",
            sparsity_pattern="none",
            calibration="",
            context_length="",
            metric="accuracy",
            dataset_or_task=task,
        )
        found = differences(record, metric(f"full_zero_shot/{task}", name, 0.7, lm_eval="0.4.13"), published)
        assert found is not None
        return [text for text in found if "lm-eval" not in text]

    assert said("acc", "Table 3 (acc, not acc_norm)") == []
    assert said("acc_norm", "Table 3 (acc, not acc_norm)") == ["metric: published acc, ours acc_norm"]
    assert said("acc", "Table 10 (acc_norm)") == ["metric: published acc_norm, ours acc"]
    assert said("acc", "Table 9") == ["not stated by the source: acc or acc_norm"]
    assert said("acc", "Table 10 (acc_norm)", "winogrande") == [], "which has no acc_norm"


def test_a_mean_is_of_the_papers_own_tasks(row: Callable[..., Published], record_of: Callable[..., Any]) -> None:
    record = record_of(*WANDA, "evaluation=[wanda_zero_shot,paper_zero_shot]")
    wanda = row(
        metric="accuracy", dataset_or_task="mean", context_length="", table="Table 2 (mean of 7 zero-shot tasks)"
    )
    aqlm = row(paper="AQLM (arXiv 2401.06118)", metric="accuracy", dataset_or_task="mean", context_length="")
    ours, other = (
        metric(f"{suite}/mean", "acc", 0.5, lm_eval="0.4.13") for suite in ("wanda_zero_shot", "paper_zero_shot")
    )
    assert [found.row for found in counterparts(record, ours, [wanda, aqlm])] == [wanda]
    assert counterparts(record, other, [wanda, aqlm]) == []


def test_a_value_in_two_files_is_listed_once(record_of: Callable[..., Any]) -> None:
    record = record_of("model=llama2_7b", "method=dense", "evaluation=wikitext2")
    found = counterparts(record, metric("wikitext2@4096"), load_published())
    told_apart = [(one.row.paper, one.row.table) for one in found if one.row.context_length == 4096]
    assert len(told_apart) == len(set(told_apart)) > 5
    assert {one.row.value for one in found if not one.differences} == {5.12}


def test_facts_about_papers_are_of_papers_that_are_there() -> None:
    assert set(PAPERS) <= {row.paper for row in load_published()}
    assert OURS not in {row.paper for row in load_published()}
