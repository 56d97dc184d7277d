"""From a published row to overrides: cases read by hand, and rules that hold for all of them."""

import re
from collections import defaultdict
from collections.abc import Callable

import pytest

from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.layout import groups
from nowag_exp.published import NotRunnable, Published, load_published, overrides_of
from nowag_exp.published.tables import load_table, tables
from nowag_exp.reproduce import parse_request, plan_jobs


def find(file: str, **cells: object) -> Published:
    """The one row of a CSV with these cells."""
    found = [
        row for row in load_published() if row.file == file and all(getattr(row, key) == v for key, v in cells.items())
    ]
    assert len(found) == 1, found
    return found[0]


NOTEBOOK = "authors' notebook plots/structure.ipynb cell 5 (N:2N figure data; not typeset paper table)"
WIKITEXT2 = {"metric": "perplexity", "task": "wikitext2"}

CASES = [
    (
        find(
            "nowag.csv", table=NOTEBOOK, model="llama2_7b", method="nowag_p", sparsity_pattern="2:4", task="wikitext2"
        ),
        "model=llama2_7b calibration=redpajama calibration.n_sequences=128 calibration.context_length=4096 "
        "method=nowag_p method.pattern=2:4 evaluation=wikitext2 evaluation.wikitext2.context_length=4096",
    ),
    (
        find("nowag.csv", table=NOTEBOOK, model="llama3_8b", method="wanda", sparsity_pattern="128:256", task="c4"),
        "model=llama3_8b calibration=c4 calibration.n_sequences=128 calibration.context_length=8192 "
        "method=wanda method.pattern=128:256 evaluation=c4_windows evaluation.c4_windows.context_length=8192",
    ),
    (
        find("nowag.csv", model="llama2_70b", metric="accuracy"),
        "model=llama2_70b calibration=redpajama calibration.n_sequences=128 calibration.context_length=4096 "
        "method=nowag_p method.pattern=2:4 evaluation=paper_zero_shot",
    ),
    (
        find("wanda.csv", table="Table 18", model="llama2_13b", method="sparsegpt"),
        "model=llama2_13b calibration=c4 calibration.n_sequences=128 calibration.context_length=4096 "
        "method=sparsegpt method.pattern=unstructured method.sparsity=0.6 "
        "evaluation=wikitext2 evaluation.wikitext2.context_length=4096",
    ),
    (
        find("wanda.csv", table="Table 3", model="llama2_7b", method="magnitude", sparsity_pattern="4:8"),
        "model=llama2_7b method=magnitude method.pattern=4:8 "
        "evaluation=wikitext2 evaluation.wikitext2.context_length=4096",
    ),
    (
        find("wanda.csv", table="Table 25", model="llama2_70b", method="wanda", task="boolq"),
        "model=llama2_70b calibration=c4 calibration.n_sequences=128 calibration.context_length=4096 "
        "method=wanda method.pattern=unstructured method.sparsity=0.5 "
        "evaluation=wanda_zero_shot evaluation.wanda_zero_shot.limit=2000",
    ),
    (
        find("omniquant.csv", table="Table 1 W3A16g128", model="llama2_7b", method="gptq"),
        "model=llama2_7b calibration=c4 calibration.context_length=2048 method=gptq method.bits=3 "
        "method.group_size=128 evaluation=wikitext2 evaluation.wikitext2.context_length=2048",
    ),
    (
        find("omniquant.csv", table="Table 1 W2A16", model="llama2_70b", method="rtn"),
        "model=llama2_70b method=rtn method.bits=2 method.group_size=null "
        "evaluation=wikitext2 evaluation.wikitext2.context_length=2048",
    ),
    (
        find("llama3_study.csv", table="Table 2 group 128", model="llama3_70b", method="rtn", bits=4.0, task="c4"),
        "model=llama3_70b method=rtn method.bits=4 method.group_size=128 "
        "evaluation=c4_windows evaluation.c4_windows.context_length=2048",
    ),
    (
        find("vptq.csv", table="Table 4", model="llama2_13b", method="gptq", **WIKITEXT2),
        "model=llama2_13b calibration=c4 calibration.context_length=4096 method=gptq method.bits=2 "
        "method.group_size=128 evaluation=wikitext2 evaluation.wikitext2.context_length=4096",
    ),
    (
        find("aqlm.csv", table="Table 2", model="llama2_7b", method="gptq", task="c4"),
        "model=llama2_7b calibration=redpajama calibration.context_length=4096 method=gptq method.bits=3 "
        "method.group_size=null evaluation=c4_windows evaluation.c4_windows.context_length=4096",
    ),
    (
        find("quip_sharp.csv", model="llama2_70b", method="dense", task="c4_new"),
        "model=llama2_70b method=dense evaluation=c4_joined evaluation.c4_joined.context_length=4096",
    ),
    (
        find("qtip.csv", table="Table 6", model="llama2_7b", method="dense", task="piqa"),
        "model=llama2_7b method=dense evaluation=full_zero_shot evaluation.full_zero_shot.bos=first",
    ),
]


@pytest.mark.parametrize(("row", "expected"), CASES, ids=lambda value: getattr(value, "table", ""))
def test_a_row_maps_to_the_overrides_that_one_reads_in_it(row: Published, expected: str) -> None:
    assert overrides_of(row) == expected.split()


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"model": "llama1_7b"}, "llama1_7b is not a model here"),
        ({"method": "quip_sharp"}, "quip_sharp is not implemented"),
        ({"finetuned": "lora"}, "fine-tuned, which ours never are"),
        ({"finetuned": "unknown"}, "may be fine-tuned: it is not said"),
        ({"metric": "seconds"}, "a cost, which depends on the machine"),
        ({"dataset_or_task": "ptb"}, "ptb is not measured here"),
        ({"metric": "accuracy", "dataset_or_task": "mmlu"}, "mmlu is not measured here"),
        (
            {"metric": "accuracy", "dataset_or_task": "mean", "paper": "AQLM (arXiv 2401.06118)"},
            "a mean over other tasks than any suite here",
        ),
        ({"sparsity_pattern": "256:512"}, "512 does not divide the 11008 inputs of a linear of llama2_7b"),
        (
            {"method": "gptq", "calibration": "c4 128x2048; --true-sequential --act-order --new-eval"},
            "--true-sequential",
        ),
        ({"method": "nowag_vq", "bits": "2.02", "sparsity_pattern": "none"}, "the row does not say method.d"),
        ({"method": "rtn", "bits": ""}, "the row does not say method.bits"),
    ],
)
def test_a_row_that_cannot_be_run_says_why(row: Callable[..., Published], cells: dict[str, str], reason: str) -> None:
    found = overrides_of(row(**cells))
    assert isinstance(found, NotRunnable)
    assert reason in found.reason


def test_256_of_512_fits_the_larger_llama_2() -> None:
    row = find("nowag.csv", model="llama2_13b", method="nowag_p", sparsity_pattern="256:512", task="c4")
    assert "method.pattern=256:512" in overrides_of(row)


def test_vptq_quotes_the_group_128_rows_of_the_llama3_study() -> None:
    rows = load_published()
    study = {
        (row.model, row.bits): row.value
        for row in rows
        if row.file == "llama3_study.csv" and row.table.endswith("group 128") and row.method == "gptq"
        if row.task == "wikitext2"
    }
    quoted = [row for row in rows if "GPTQ quoted" in row.table and row.task == "wikitext2"]
    assert len(quoted) == 6
    for row in quoted:
        assert row.value == study[row.model, row.bits]
        assert "method.group_size=128" in overrides_of(row)


def test_every_row_maps_to_overrides_or_a_reason() -> None:
    known = groups()
    runnable = 0
    for row in load_published():
        found = overrides_of(row)
        if isinstance(found, NotRunnable):
            assert found.reason
            continue
        runnable += 1
        chosen = dict(text.split("=", 1) for text in found)
        assert chosen["model"] == row.model
        assert chosen["method"] == row.method
        assert chosen["evaluation"] in known["evaluation"]
        assert chosen.get("calibration", "c4") in known["calibration"]
        assert row.finetuned == "no"
    assert runnable > 900


def test_rows_of_different_settings_never_map_to_the_same_overrides() -> None:
    """Each column that is part of a setting, read in another way than the mapping does."""
    by_overrides: dict[tuple[str, ...], list[Published]] = defaultdict(list)
    for row in load_published():
        if isinstance(found := overrides_of(row), list):
            by_overrides[tuple(found)].append(row)
    for rows in by_overrides.values():
        for setting in (
            lambda row: row.model,
            lambda row: row.method,
            lambda row: row.sparsity_pattern,
            lambda row: int(row.bits),
            lambda row: (
                ("128" in row.table, "64" in row.table.split("A16")[-1]) if row.method in ("rtn", "gptq") else 0
            ),
            lambda row: row.metric,
            lambda row: row.task if row.metric == "perplexity" else "",
        ):
            seen = {setting(row) for row in rows if "GPTQ quoted" not in row.table and row.bits != 2.125}
            assert len(seen) <= 1, rows
        contexts = {row.context_length for row in rows if row.context_length and row.metric == "perplexity"}
        assert len(contexts) <= 1
        if rows[0].method not in ("dense", "magnitude", "rtn"):
            stated = {match[0] for row in rows if (match := re.match(r"\w+ \d+x\d+", row.calibration))}
            assert len(stated) <= 1


@pytest.mark.parametrize("name", [name for name in tables() if name not in ("nowag_vq", "embedded")])
def test_every_experiment_of_a_table_composes_and_builds(name: str) -> None:
    plan = plan_jobs(load_table(name), parse_request([]))
    assert plan.jobs
    wanted = [row for job in plan.jobs for row in job.rows] + [row for row, _ in plan.left_out]
    assert sorted(row.line for row in wanted) == sorted(row.line for row in load_table(name).rows)
    for job in plan.jobs:
        experiment = build_experiment(compose(list(job.overrides)))
        for row in job.rows:
            assert (experiment.model.label, experiment.method.name) == (row.model, row.method)
            if row.metric == "perplexity":
                contexts = {text.label: text.context_length for text in experiment.evaluation.perplexities}
                matching = {
                    context for label, context in contexts.items() if label.startswith(row.task.removesuffix("_new"))
                }
                assert row.context_length in (*matching, None)
            else:
                assert {suite.name for suite in experiment.evaluation.zero_shot} & {
                    "paper_zero_shot",
                    "wanda_zero_shot",
                }


def test_rows_of_one_model_and_method_share_their_experiment() -> None:
    plan = plan_jobs(load_table("nowag_pruning"), parse_request(["model=llama2_7b", "method=nowag_p"]))
    assert len(plan.jobs) == 7, "2:4 to 128:256, each for both texts"
    assert all({row.task for row in job.rows} == {"wikitext2", "c4"} for job in plan.jobs)
    assert all("evaluation=[wikitext2,c4_windows]" in job.overrides for job in plan.jobs)
    assert {row.sparsity_pattern for row, _ in plan.left_out} == {"256:512", "512:1024"}


def test_one_data_set_at_two_contexts_takes_two_experiments() -> None:
    plan = plan_jobs(load_table("dense"), parse_request(["model=llama2_7b", "task=wikitext2"]))
    contexts = [{row.context_length for row in job.rows} for job in plan.jobs]
    assert sorted(map(sorted, contexts)) == [[2048], [4096]]
