from dataclasses import replace

import pytest

from nowag_exp.records.record import RunRecord, StageCost
from nowag_exp.tracking.contents import facts, ledger_rows, metric_key, metrics, numbers, title


@pytest.mark.parametrize(
    ("name", "protocol", "key"),
    [
        ("perplexity", "wikitext2@4096", "perplexity/wikitext2@4096"),
        ("top1_agreement", "wikitext2@4096", "top1_agreement/wikitext2@4096"),
        ("kl", "files:a/b@64", "kl/files:a/b@64"),
        ("acc", "paper_zero_shot/arc_easy", "zero_shot/paper_zero_shot/arc_easy"),
        ("acc_norm", "paper_zero_shot/arc_easy", "zero_shot/paper_zero_shot/arc_easy/acc_norm"),
        ("flips", "paper_zero_shot/arc_easy", "zero_shot/paper_zero_shot/arc_easy/flips"),
    ],
)
def test_keys_are_as_documented(record: RunRecord, name: str, protocol: str, key: str) -> None:
    assert metric_key(replace(record.metrics[0], name=name, protocol=protocol)) == key


def test_every_metric_has_its_value_and_its_standard_error_if_it_has_one(record: RunRecord) -> None:
    text, task = record.metrics[0].protocol, "zero_shot/paper_zero_shot/arc_easy"
    assert metrics(record) == {
        f"perplexity/{text}": record.metrics[0].value,
        f"perplexity/{text}/standard_error": record.metrics[0].standard_error,
        f"kl/{text}": 0.5,
        task: 0.625,
        f"{task}/standard_error": 0.125,
        f"{task}/acc_norm": 0.75,
        f"{task}/acc_norm/standard_error": 0.125,
        f"{task}/flips": 0.25,
        f"{task}/flips/standard_error": 0.125,
    }


def test_numbers_hold_compression_and_costs_and_leave_out_what_was_not_measured(record: RunRecord) -> None:
    costs = replace(record.costs, stages={"load": StageCost(1.5, 2048, None)})
    found = numbers(replace(record, costs=costs))
    assert {key: value for key, value in found.items() if key.startswith("costs/")} == {
        "costs/load/seconds": 1.5,
        "costs/load/peak_bytes": 2048,
        "costs/load/reused": False,
    }
    assert found["compression/sparsity"] == record.compression.sparsity
    assert found["compression/bits_per_weight"] == record.compression.bits_per_weight
    assert "compression/linears" not in found
    assert metrics(record).items() <= found.items()


def test_facts_say_what_a_number_was_made_with_and_on(record: RunRecord) -> None:
    found = facts(record)
    assert found["fingerprint"] == record.fingerprint
    assert found["labels/method"] == "magnitude"
    assert found["provenance/libraries/torch"] == record.provenance["libraries"]["torch"]
    assert found["inputs/model_files/config.json"] == record.inputs.model_files["config.json"]
    assert found["zero_shot/paper_zero_shot/arc_easy/token_hash"] == record.metrics[2].token_hash


def test_the_ledger_is_a_row_an_entry_and_the_title_a_few_words(record: RunRecord) -> None:
    assert ledger_rows(record) == [["dead_columns", "model.layers.0", "of 64 inputs", 2]]
    assert title(record) == "tiny magnitude 50%"
    assert title(replace(record, labels=replace(record.labels, settings=None))) == "tiny magnitude"
