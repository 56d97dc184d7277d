"""Compressed texts and tables that expand without end, or are damaged: refused by name, before they fill memory."""

import gzip
import io
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nowag_exp.cli import main
from nowag_exp.errors import RequestError
from nowag_exp.evaluation.zero_shot.rows import read_rows
from nowag_exp.files import LEAST_BOUND
from nowag_exp.text.readers import read_documents
from nowag_exp.text.tabular import read_parquet

Limit = Callable[[], AbstractContextManager[None]]


def test_a_gzip_bomb_is_refused_before_it_fills_memory(
    workplace: Path, tiny_run: list[str], little_memory: Limit, capsys: pytest.CaptureFixture[str]
) -> None:
    line = gzip.compress(b'{"text": "' + b"a" * 1_000_000 + b'"}\n')
    (workplace / "bomb.json.gz").write_bytes(line * 4000)
    assert (workplace / "bomb.json.gz").stat().st_size < 5_000_000
    with little_memory():
        code = main(
            ["run", *tiny_run, "method=dense", "calibration.path=bomb.json.gz", "evaluation.files.path=bomb.json.gz"]
        )
    assert code == 2
    assert "bomb.json.gz: expands to more than" in capsys.readouterr().err


def repeated(n_rows: int) -> pyarrow.DictionaryArray:
    """A text of a megabyte in so many rows, stored once."""
    return pyarrow.DictionaryArray.from_arrays(np.zeros(n_rows, np.int32), pyarrow.array(["a" * 1_000_000]))


def parquet(column: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), content, **options)
    return content.getvalue()


def arrow(column: Any, new: Callable[..., Any] = pyarrow.ipc.new_file, compression: str | None = None) -> bytes:
    content, table = io.BytesIO(), pyarrow.table({"text": column})
    with new(content, table.schema, options=pyarrow.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=100)
    return content.getvalue()


def viewed() -> bytes:
    """A file of views of one text."""
    view = struct.pack("<i4sii", 1_000_000, b"aaaa", 0, 0)
    buffers = [None, pyarrow.py_buffer(view * 200), pyarrow.py_buffer(b"a" * 1_000_000)]
    return arrow(pyarrow.Array.from_buffers(pyarrow.string_view(), 200, buffers), compression="zstd")


BOMBS = {
    "stored.parquet": lambda: parquet(["a" * 1_000_000 + str(i) for i in range(200)], compression="zstd"),
    "repeated.parquet": lambda: parquet(repeated(1_000_000), store_schema=False),
    "dictionary.parquet": lambda: parquet(repeated(1_000_000)),
    "long.parquet": lambda: parquet(
        pyarrow.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["a" * 90_000_000]),
        store_schema=False,
        compression="zstd",
    ),
    "prefix.parquet": lambda: parquet(
        ["a" * 1_000_000] * 300, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY"
    ),
    "rows.parquet": lambda: parquet([""] * 20_000_000),
    "dictionary.arrow": lambda: arrow(repeated(100_000), pyarrow.ipc.new_stream),
    "views.arrow": viewed,
    "batches.arrow": lambda: arrow(["a" * 1_000_000] * 200, compression="zstd"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_table_that_expands_without_end_is_refused_before_it_fills_memory(
    tmp_path: Path, little_memory: Limit, name: str
) -> None:
    content = BOMBS[name]()
    assert len(content) < LEAST_BOUND / 20
    (tmp_path / name).write_bytes(content)
    with little_memory(), pytest.raises(RequestError, match=rf"{name}: expands to more than .* give it as \.jsonl$"):
        read_documents(tmp_path / name, "text")


@pytest.mark.parametrize("name", BOMBS)
def test_rows_of_a_zero_shot_task_are_bounded_as_texts_are(tmp_path: Path, little_memory: Limit, name: str) -> None:
    (tmp_path / name).write_bytes(BOMBS[name]())
    with little_memory(), pytest.raises(RequestError, match=rf"{name}: expands to more than .* give it as \.jsonl$"):
        read_rows([tmp_path / name], ["text"])


def nested(kind: str) -> pyarrow.Array:
    """A text of a megabyte that is stored once, and read a few thousand times below lists or objects."""
    if kind == "one list":
        return pyarrow.ListArray.from_arrays([0, 5000], repeated(5000))
    if kind == "list":
        return pyarrow.ListArray.from_arrays(np.arange(5001, dtype=np.int32), repeated(5000))
    if kind == "fixed":
        return pyarrow.FixedSizeListArray.from_arrays(repeated(5000), 2)
    return pyarrow.StructArray.from_arrays([repeated(5000)], ["label"])


@pytest.mark.parametrize("name", ["rows.arrow", "rows.parquet"])
@pytest.mark.parametrize("kind", ["list", "one list", "fixed", "struct"])
def test_rows_are_bounded_in_lists_and_objects_as_well(
    tmp_path: Path, little_memory: Limit, kind: str, name: str
) -> None:
    path, table = tmp_path / name, pyarrow.table({"choices": nested(kind)})
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, store_schema=False)  # Its reader is not told of dictionaries.
    else:
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    with little_memory(), pytest.raises(RequestError, match=rf"{name}: expands to more than 100 MB"):
        read_rows([path], ["choices"])


def test_rows_in_a_dictionary_that_fit_are_read(tmp_path: Path) -> None:
    options = pyarrow.ListArray.from_arrays([0, 1, 2], pyarrow.array(["yes", "no"]).dictionary_encode())
    table = pyarrow.table(
        {
            "text": pyarrow.array(["a", "a"]).dictionary_encode(),
            "options": options,
            "label": pyarrow.DictionaryArray.from_arrays([0, 0], pyarrow.array([7])),
            "note": pyarrow.DictionaryArray.from_arrays([None, 0], pyarrow.array(["n"])),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert read_rows([tmp_path / "rows.parquet"], ["text"]).to_list() == [
        {"text": "a", "options": ["yes"], "label": 7, "note": None},
        {"text": "a", "options": ["no"], "label": 7, "note": "n"},
    ]


def test_a_column_that_no_data_set_has_is_refused_with_its_file(tmp_path: Path) -> None:
    ends = pyarrow.RunEndEncodedArray.from_arrays([2], ["a"])
    (tmp_path / "rows.arrow").write_bytes(arrow(ends))
    with pytest.raises(RequestError, match=r"rows\.arrow: holds no rows of a data set \(.*run_end_encoded"):
        read_rows([tmp_path / "rows.arrow"], [])


@pytest.mark.parametrize("new", [pyarrow.ipc.new_file, pyarrow.ipc.new_stream])
def test_a_null_inside_a_dictionary_is_a_row_without_text(tmp_path: Path, new: Callable[..., Any]) -> None:
    column = pyarrow.DictionaryArray.from_arrays([0, 0, 1], ["a", None])
    (tmp_path / "null.arrow").write_bytes(arrow(column, new))
    with pytest.raises(RequestError, match=r"null\.arrow: document 3: .*null"):
        list(read_documents(tmp_path / "null.arrow", "text"))
    with pytest.raises(RequestError, match=r"null\.arrow: 1 rows have no 'text'"):
        read_rows([tmp_path / "null.arrow"], ["text"])


def test_a_null_that_no_row_of_a_dictionary_means_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "it.arrow").write_bytes(arrow(pyarrow.DictionaryArray.from_arrays([0, 0], ["a", None])))
    assert list(read_documents(tmp_path / "it.arrow", "text")) == ["a", "a"]


def lying(n_bytes: int) -> bytes:
    """A file of one page of so many bytes, whose footer says that there are 1000."""
    content = parquet(["a" * n_bytes], compression="zstd", use_dictionary=False, write_statistics=False)
    said = pyarrow.parquet.ParquetFile(io.BytesIO(content)).metadata.row_group(0).total_byte_size
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert content[footer:].count(varint(said)) == 2, "of the row group and of its column"
    return content[:footer] + content[footer:].replace(varint(said), varint(1000, len(varint(said))))


def varint(number: int, length: int = 1) -> bytes:
    """A signed number as Parquet's footer has it, in so many bytes or more."""
    number, digits = 2 * number, bytearray()
    while number > 127 or len(digits) < length - 1:
        digits.append(number % 128 + 128)
        number //= 128
    return bytes([*digits, number])


@pytest.mark.parametrize("read", [lambda path: read_documents(path, "text"), lambda path: read_rows([path], ["text"])])
def test_a_parquet_file_whose_footer_lies_about_its_size_is_refused(
    tmp_path: Path, little_memory: Limit, read: Callable[[Path], Any]
) -> None:
    (tmp_path / "lying.parquet").write_bytes(lying(200_000_000))
    assert pyarrow.parquet.read_metadata(tmp_path / "lying.parquet").row_group(0).total_byte_size == 1000
    with little_memory(), pytest.raises(RequestError, match=r"lying\.parquet: expands to more than 100 MB"):
        read(tmp_path / "lying.parquet")


def test_many_rows_of_a_well_compressed_file_are_read_in_few_pieces(tmp_path: Path) -> None:
    texts = [f"row {i} {'of many ' * 20}" for i in range(300_000)]
    (tmp_path / "many.parquet").write_bytes(parquet(texts, compression="zstd"))
    column = read_parquet(tmp_path / "many.parquet", ["text"])["text"]
    assert column.num_chunks < 10
    assert list(read_documents(tmp_path / "many.parquet", "text")[-2:]) == texts[-2:]


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_texts_of_every_encoding_are_read(tmp_path: Path, encoding: str) -> None:
    texts = [f"text {i}" for i in range(1000)]
    content = parquet(texts, use_dictionary=False, column_encoding=encoding)
    (tmp_path / "it.parquet").write_bytes(content)
    assert list(read_documents(tmp_path / "it.parquet", "text")) == texts


def test_as_much_text_as_a_file_may_expand_to_is_read(tmp_path: Path) -> None:
    texts = ["a" * 1_000_000] * 90
    (tmp_path / "much.parquet").write_bytes(parquet(texts))
    assert list(read_documents(tmp_path / "much.parquet", "text")) == texts


@pytest.mark.parametrize("name", ["it.parquet", "it.arrow"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], ["text", "text"])
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(table, tmp_path / name)
    else:
        with pyarrow.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(RequestError, match=rf"{name}: has the column 'text' twice"):
        read_documents(tmp_path / name, "text")


TEXTS = ["first line", "zweite Zeile: ä", "b" * 50, "b" * 50]
SOUND = {
    "plain.parquet": parquet(TEXTS, compression="zstd"),
    "dictionary.parquet": parquet(pyarrow.array(TEXTS).dictionary_encode()),
    "file.arrow": arrow(TEXTS),
    "stream.arrow": arrow(TEXTS, pyarrow.ipc.new_stream, "zstd"),
    "dictionary.arrow": arrow(pyarrow.array(TEXTS).dictionary_encode()),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(data=st.data())
def test_flipped_bytes_of_a_table_are_refused_by_name_or_harmless(
    tmp_path: Path, bounded: Limit, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(SOUND)))
    spoiled = bytearray(SOUND[name])
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(spoiled)
    problem = f"{name}: "
    try:
        with bounded():
            list(read_documents(tmp_path / name, "text"))
    except RequestError as error:
        problem = str(error)
    assert f"{name}: " in problem  # Either is right: a letter of a text may change, and it is a text.
