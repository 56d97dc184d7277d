import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nowag_exp.cli import main
from nowag_exp.errors import RequestError
from nowag_exp.ledger import Irregularity
from nowag_exp.records.record import RunRecord, load_record, load_records, save_record
from nowag_exp.records.tables import tidy
from nowag_exp.records.wide import render

Make = Callable[..., RunRecord]


@pytest.fixture
def records(make_record: Make) -> list[RunRecord]:
    return [
        make_record("a1", "dense", [20.0, 20.5]),
        make_record("b2", "wanda", [30.125, 30.125]),
        make_record("c3", "nowag_p", [30.0, 30.0]),
    ]


def test_a_record_comes_back_from_its_file_as_it_was(records: list[RunRecord], tmp_path: Path) -> None:
    path = save_record(tmp_path, records[1])
    assert path.name == "b2.json"
    assert load_record(path) == records[1]
    assert load_records(tmp_path) == [records[1]]


def test_a_record_of_another_schema_version_is_refused(records: list[RunRecord], tmp_path: Path) -> None:
    path = save_record(tmp_path, replace(records[0], schema_version=99))
    with pytest.raises(
        RequestError, match=r"a1\.json: has schema version 99, this program reads 4; move the file away"
    ):
        load_record(path)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema_version": 4}'])
def test_a_damaged_record_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "x.json").write_text(damage)
    with pytest.raises(RequestError, match=r"x\.json: (is damaged|has schema version None)"):
        load_record(tmp_path / "x.json")


def test_a_record_with_a_value_of_the_wrong_type_is_damaged(records: list[RunRecord], tmp_path: Path) -> None:
    path = save_record(tmp_path, records[0])
    content = json.loads(path.read_text())
    content["metrics"][0]["value"] = "low"
    path.write_text(json.dumps(content))
    with pytest.raises(RequestError, match=r"is damaged \(metrics\.0\.value: "):
        load_record(path)


def test_a_flipped_bit_anywhere_in_a_record_is_noticed(records: list[RunRecord], tmp_path: Path) -> None:
    path = save_record(tmp_path, records[1])
    written = path.read_bytes()
    for position in range(len(written)):
        path.write_bytes(written[:position] + bytes([written[position] ^ 1]) + written[position + 1 :])
        with pytest.raises(RequestError, match=r"b2\.json: (is damaged|has schema version)"):
            load_record(path)


def test_a_record_under_another_name_is_refused_wherever_it_is_read(
    records: list[RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [save_record(tmp_path, record) for record in records[1:]]
    for name in ("c3.json", "b2 (1).json"):
        paths[1].with_name(name).write_bytes(paths[0].read_bytes())
        for verb in (["table"], ["compare", str(paths[0]), str(paths[1].with_name(name))]):
            assert main([*verb, f"paths.results={tmp_path}"]) == 2
            said = capsys.readouterr().err
            assert f"{name}: is the record of b2, under another name; rename it to b2.json, or remove it" in said
        paths[1].with_name(name).unlink()


def test_csv_is_tidy_with_the_promised_columns_and_exact_values(records: list[RunRecord], tmp_path: Path) -> None:
    text = render(records, "csv", tmp_path)
    table = pd.read_csv(io.StringIO(text), dtype={"token_hash": str, "irregularities": str})
    promised = (
        "model method settings sparsity bits_per_weight bits_per_parameter megabytes propagate calibration n_sequences "
        "context_length seed method_seed metric "
        "protocol value standard_error n token_hash irregularities fingerprint"
    )
    assert list(table.columns) == promised.split()
    assert len(table) == 3
    wanda = table[table["method"] == "wanda"].iloc[0]
    assert wanda["value"] == 30.125
    assert wanda["settings"] == "2:4"
    assert wanda["seed"] == 0
    assert table[table["method"] == "dense"]["calibration"].isna().all()


def test_rows_go_from_dense_to_sparse_and_from_large_to_small_the_best_of_a_size_first(make_record: Make) -> None:
    found = [
        make_record("a", "rtn", [40.0, 40.0], bits=2.25),
        make_record("b", "vq", [35.0, 35.0], bits=2.0),
        make_record("c", "rtn", [29.0, 29.0], bits=4.25),
        make_record("d", "dense", [99.0, 99.0]),
    ]
    assert tidy(found)["fingerprint"].tolist() == ["d", "c", "b", "a"]


def test_rows_that_would_look_alike_say_in_which_settings_they_differ(records: list[RunRecord]) -> None:
    method = {**records[1].identity["method"], "dampening": 0.1}
    other = replace(records[1], fingerprint="f6", identity={**records[1].identity, "method": method})
    settings = tidy([records[1], other, records[2]]).set_index("fingerprint")["settings"]
    assert settings.to_dict() == {"b2": "2:4, dampening=0.01", "f6": "2:4, dampening=0.1", "c3": "2:4"}
    labelled = replace(other, labels=replace(other.labels, settings="1:4"))
    assert sorted(tidy([records[1], labelled])["settings"]) == ["1:4", "2:4"]


def test_different_things_of_one_name_are_told_apart(records: list[RunRecord]) -> None:
    other = replace(records[1], fingerprint="f6", identity={**records[1].identity, "model": "another"})
    assert tidy([*records, other])["model"].nunique() == 2
    assert all(model.startswith("llama #") for model in tidy([*records, other])["model"])
    text = {"text": "another", "seed": 0, "n_sequences": 8, "context_length": 512}
    other = replace(records[1], fingerprint="f6", identity={**records[1].identity, "calibration": text})
    assert sorted(set(tidy([records[1], other])["calibration"].str[:13])) == ["wiki_sample #"]
    same = replace(other, identity={**other.identity, "calibration": {**text, "text": "t", "seed": 1}})
    assert set(tidy([records[1], same])["calibration"]) == {"wiki_sample"}


def test_the_ledger_is_summed_up(records: list[RunRecord]) -> None:
    irregular = replace(records[2], irregularities=[Irregularity("dead_columns", "x", "y", 2)] * 2)
    assert tidy([irregular])["irregularities"].tolist() == ["dead_columns:4"]


def test_no_records_is_an_empty_table(tmp_path: Path) -> None:
    assert render([], "text", tmp_path) == "no records yet\n"
    assert render([], "csv", tmp_path).startswith("model,method,")
