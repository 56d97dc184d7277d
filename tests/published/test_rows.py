import csv
from pathlib import Path

import pytest

from nowag_exp.errors import RequestError
from nowag_exp.published import load_csv, load_published, published_folder
from nowag_exp.published.rows import COLUMNS

from .conftest import ROW, write_rows


def test_every_published_value_is_read() -> None:
    rows = load_published()
    lines = [csv.reader(path.read_text(encoding="utf-8").splitlines()) for path in published_folder().glob("*.csv")]
    assert len(rows) == sum(len(list(of_file)) - 1 for of_file in lines)
    assert len(rows) > 3300
    assert {row.file for row in rows} >= {"nowag.csv", "wanda.csv", "dense_reference.csv", "costs.csv"}


def test_a_row_keeps_every_column(tmp_path: Path) -> None:
    (row,) = load_csv(write_rows(tmp_path / "a.csv", {"calibration": "c4 128x4096 (x, y)", "context_length": ""}))
    assert (row.paper, row.table, row.model, row.method) == (
        "Wanda (arXiv 2306.11695)",
        "Table 3",
        "llama2_7b",
        "wanda",
    )
    assert (row.finetuned, row.bits, row.sparsity_pattern, row.context_length) == ("no", 16.0, "2:4", None)
    assert (row.calibration, row.metric, row.task) == ("c4 128x4096 (x, y)", "perplexity", "wikitext2")
    assert (row.value, row.source, row.file, row.line) == (11.02, "arXiv:2306.11695v2 PDF", "a.csv", 2)


@pytest.mark.parametrize(
    ("printed", "half_a_unit"),
    [("5.12", 0.005), ("22.00", 0.005), ("5.7e4", 500), ("2.1e2", 5), ("110", 0.5), ("11.138714", 0.0000005)],
)
def test_rounding_is_half_a_unit_of_the_last_printed_digit(tmp_path: Path, printed: str, half_a_unit: float) -> None:
    (row,) = load_csv(write_rows(tmp_path / "a.csv", {"value": printed}))
    assert row.rounding == pytest.approx(half_a_unit, rel=1e-12)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"value": "5,12"}, r"a\.csv, line 3, column value: must be a number; got '5,12'"),
        ({"value": "nan"}, r"a\.csv, line 3, column value: must be a number; got 'nan'"),
        ({"value": ""}, r"a\.csv, line 3, column value: is empty; every value needs its value"),
        ({"bits": "four"}, r"a\.csv, line 3, column bits: must be a number; got 'four'"),
        ({"context_length": "2k"}, r"a\.csv, line 3, column context_length: must be a number; got '2k'"),
        ({"context_length": "20.5"}, r"line 3, column context_length: must be a whole number of tokens; got 20\.5"),
        ({"source": " "}, r"a\.csv, line 3, column source: is empty; every value needs its source"),
        ({"model": ""}, r"a\.csv, line 3, column model: is empty"),
    ],
)
def test_a_bad_cell_is_named_by_file_line_and_column(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load_csv(write_rows(tmp_path / "a.csv", {}, cells))


def test_a_missing_or_unknown_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for left_out in COLUMNS:
        header = [name for name in COLUMNS if name != left_out]
        path.write_text(",".join(header) + "\n" + ",".join(ROW[name] for name in header) + "\n")
        with pytest.raises(
            RequestError, match=rf"a\.csv, line 1: misses the column {left_out}; the columns are: paper,"
        ):
            load_csv(path)
    path.write_text(",".join([*COLUMNS, "remark"]) + "\n")
    with pytest.raises(RequestError, match=r"a\.csv, line 1: has an unknown column remark"):
        load_csv(path)


def test_a_line_with_too_few_or_too_many_cells_is_named(tmp_path: Path) -> None:
    for cells in (["x"] * 12, ["x"] * 14):
        (tmp_path / "a.csv").write_text(",".join(COLUMNS) + "\n" + ",".join(cells) + "\n")
        with pytest.raises(RequestError, match=r"a\.csv, line 2: must have 13 cells; quote a cell that holds a comma"):
            load_csv(tmp_path / "a.csv")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match=r"a\.csv: cannot be read as CSV in UTF-8"):
        load_csv(tmp_path / "a.csv")
