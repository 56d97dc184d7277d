import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nowag_exp.calibration import CompressedLinear
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.ledger import Irregularity
from nowag_exp.records.record import (
    SCHEMA_VERSION,
    Compression,
    Costs,
    Inputs,
    Labels,
    RunRecord,
    StageCost,
    load_record,
    load_records,
    save_record,
)
from nowag_exp.records.tables import render, tidy


def record(fingerprint: str, method: str, value: float, model: str = "llama", token_hash: str = "f00") -> RunRecord:
    dense = method == "dense"
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint,
        identity={
            "model": model,
            "calibration": None if dense else {"text": "t"},
            "method": {"class": method, "version": 1, "name": method, "dampening": 0.01},
        },
        config={"b": [1, None]},
        labels=Labels(
            model=model,
            method=method,
            settings=None if dense else "2:4",
            propagate=None if dense else "dense",
            calibration=None if dense else "wiki_sample",
            n_sequences=None if dense else 8,
            context_length=None if dense else 512,
            seed=None if dense else 0,
        ),
        inputs=Inputs({"config.json": "aa"}, None if dense else "bb"),
        compression=Compression(
            n_weights=100,
            sparsity=0.0 if dense else 0.5,
            bits_per_weight=32.0 if dense else 8.75,
            n_parameters=150,
            bits_per_parameter=32.0 if dense else 16.5,
            n_bytes=600 if dense else 310,
            linears=[CompressedLinear("x.q_proj", (10, 10), 50, "sparse", 875, 0.25)],
        ),
        metrics=[Metric("perplexity", "wiki_sample@512", value, 0.25, token_hash, 2, [1.0, 2.0], {})],
        items_sha256=None,
        irregularities=[],
        provenance={"nowag_exp": "0"},
        costs=Costs("2026-01-01", "2026-01-02", {"load": StageCost(0.1, None, None)}),
    )


RECORDS = [record("a1", "dense", 20.0), record("b2", "wanda", 30.125), record("c3", "nowag_p", 30.0)]


def test_a_record_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    path = save_record(tmp_path, RECORDS[1])
    assert path.name == "b2.json"
    assert load_record(path) == RECORDS[1]
    assert load_records(tmp_path) == [RECORDS[1]]


def test_a_record_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = save_record(tmp_path, replace(RECORDS[0], schema_version=99))
    with pytest.raises(
        RequestError, match=r"a1\.json: has schema version 99, this program reads 3; move the file away"
    ):
        load_record(path)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema_version": 3}'])
def test_a_damaged_record_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "x.json").write_text(damage)
    with pytest.raises(RequestError, match=r"x\.json: (is damaged|has schema version None)"):
        load_record(tmp_path / "x.json")


def test_a_record_with_a_value_of_the_wrong_type_is_damaged(tmp_path: Path) -> None:
    path = save_record(tmp_path, RECORDS[0])
    content = json.loads(path.read_text())
    content["metrics"][0]["value"] = "low"
    path.write_text(json.dumps(content))
    with pytest.raises(RequestError, match=r"is damaged \(metrics\.0\.value: "):
        load_record(path)


def test_csv_is_tidy_with_the_promised_columns_and_exact_values() -> None:
    table = pd.read_csv(io.StringIO(render(RECORDS, "csv")), dtype={"token_hash": str, "irregularities": str})
    promised = (
        "model method settings sparsity bits_per_weight bits_per_parameter megabytes propagate calibration n_sequences "
        "context_length seed metric "
        "protocol value standard_error token_hash irregularities fingerprint"
    )
    assert list(table.columns) == promised.split()
    assert len(table) == 3
    wanda = table[table["method"] == "wanda"].iloc[0]
    assert wanda["value"] == 30.125
    assert wanda["settings"] == "2:4"
    assert wanda["seed"] == 0
    assert table[table["method"] == "dense"]["calibration"].isna().all()


def sized(fingerprint: str, method: str, value: float, bits: float) -> RunRecord:
    made = record(fingerprint, method, value)
    return replace(made, compression=replace(made.compression, bits_per_weight=bits, sparsity=0.0))


def test_a_value_is_marked_if_no_other_row_is_both_better_and_at_most_as_large() -> None:
    rows = [sized("a", "rtn", 40.0, 2.25), sized("b", "gptq", 30.0, 2.25), sized("c", "vq", 35.0, 2.0)]
    rows += [sized("d", "rtn", 29.0, 4.25), sized("e", "vq", 31.0, 4.0), RECORDS[0]]
    lines = render(rows, "text").splitlines()
    assert [line.split()[0] for line in lines if line.endswith(" *")] == ["rtn", "gptq", "vq"]
    assert [line.split()[0] for line in lines[3:9]] == ["dense", "rtn", "vq", "gptq", "vq", "rtn"]


def test_rows_that_would_look_alike_say_in_which_settings_they_differ() -> None:
    method = {**RECORDS[1].identity["method"], "dampening": 0.1}
    other = replace(RECORDS[1], fingerprint="f6", identity={**RECORDS[1].identity, "method": method})
    assert tidy([RECORDS[1], other, RECORDS[2]])["settings"].tolist() == [
        "2:4",
        "2:4, dampening=0.01",
        "2:4, dampening=0.1",
    ]
    labelled = replace(other, labels=replace(other.labels, settings="1:4"))
    assert sorted(tidy([RECORDS[1], labelled])["settings"]) == ["1:4", "2:4"]


def test_the_best_compressed_value_is_marked_and_dense_is_not() -> None:
    text = render(RECORDS, "text")
    marked = [line for line in text.splitlines() if line.endswith(" *")]
    assert len(marked) == 1
    assert marked[0].startswith("nowag_p")
    assert "30.00 ± 0.25 *" in marked[0]
    assert "**30.00 ± 0.25**" in render(RECORDS, "md")


def test_values_on_different_tokens_never_share_a_column() -> None:
    other = record("d4", "magnitude", 1.0, token_hash="0123456789")
    text = render([*RECORDS, other], "text")
    assert "perplexity wiki_sample@512 #f00" in text
    assert "perplexity wiki_sample@512 #01234567" in text
    assert "30.00 ± 0.25 *" in text  # Each is the best of its own column.
    assert "1.00 ± 0.25 *" in text


def test_models_have_sections_of_their_own() -> None:
    text = render([*RECORDS, record("e5", "wanda", 5.0, model="big")], "text")
    big, llama = text.split("llama\n")
    assert big.startswith("big\n")
    assert "5.00 ± 0.25 *" in big
    assert "30.00 ± 0.25 *" in llama


def test_different_things_of_one_name_are_told_apart() -> None:
    other = replace(RECORDS[1], fingerprint="f6", identity={**RECORDS[1].identity, "model": "another"})
    assert tidy([*RECORDS, other])["model"].nunique() == 2
    assert all(model.startswith("llama #") for model in tidy([*RECORDS, other])["model"])
    text = {"text": "another", "seed": 0, "n_sequences": 8, "context_length": 512}
    other = replace(RECORDS[1], fingerprint="f6", identity={**RECORDS[1].identity, "calibration": text})
    assert sorted(set(tidy([RECORDS[1], other])["calibration"].str[:13])) == ["wiki_sample #"]
    same = replace(other, identity={**other.identity, "calibration": {**text, "text": "t", "seed": 1}})
    assert set(tidy([RECORDS[1], same])["calibration"]) == {"wiki_sample"}


def test_irregularities_are_shown_when_there_are_any() -> None:
    irregular = replace(RECORDS[2], irregularities=[Irregularity("dead_columns", "x", "y", 2)] * 2)
    assert "dead_columns:4" in render([RECORDS[0], irregular], "text")
    assert "irregularities" not in render(RECORDS, "text")
    assert tidy([irregular])["irregularities"].tolist() == ["dead_columns:4"]


def test_latex_escapes_names_and_sets_the_best_in_bold() -> None:
    tex = render(RECORDS, "tex")
    assert r"nowag\_p" in tex
    assert r"\textbf{30.00 ± 0.25}" in tex
    assert r"50.0\%" in tex
    assert r"\toprule" in tex


def test_no_records_is_an_empty_table() -> None:
    assert render([], "text") == "no records yet\n"
    assert render([], "csv").startswith("model,method,")
