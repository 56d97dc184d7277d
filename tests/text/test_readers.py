import gzip
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from nowag_exp.errors import RequestError
from nowag_exp.text.readers import read_documents

TEXTS = ["first\nline", "zweite Zeile: ä", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = "".join(json.dumps({"text": text, "n": i}, ensure_ascii=False) + "\n" for i, text in enumerate(TEXTS))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "unended.jsonl").write_text(lines.rstrip("\n"), encoding="utf-8")
    (tmp_path / "blank.jsonl").write_text("\n" + lines.replace("\n", "\n\n", 1) + "\n", encoding="utf-8")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(lines.encode()))
    pd.DataFrame({"text": TEXTS, "n": [0, 1, 2]}).to_parquet(tmp_path / "a.parquet")
    write_arrow(tmp_path / "stream.arrow", pyarrow.ipc.new_stream, TEXTS)
    write_arrow(tmp_path / "file.arrow", pyarrow.ipc.new_file, TEXTS)
    return tmp_path


def write_arrow(path: Path, new: Callable[..., Any], texts: Sequence[object]) -> None:
    """One row a record batch, so that rows lie in several chunks."""
    table = pyarrow.table({"text": texts, "n": range(len(texts))})
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)


@pytest.mark.parametrize(
    "name", ["a.jsonl", "unended.jsonl", "blank.jsonl", "a.json.gz", "a.parquet", "stream.arrow", "file.arrow"]
)
def test_every_row_is_a_document_in_every_format(folder: Path, name: str) -> None:
    documents = read_documents(folder / name, "text")
    assert list(documents) == TEXTS
    assert len(documents) == 3
    assert documents[-1] == TEXTS[-1]
    assert list(documents[1:]) == TEXTS[1:]


def test_a_txt_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n")
    assert list(read_documents(tmp_path / "a.txt", "text")) == ["one\r\ntwo\n"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "holds no text"),
        ("blank.txt", b" \n\t\n", "holds no text"),
        ("empty.jsonl", b"", "holds no text"),
        ("latin.txt", "é".encode("latin1"), r"is not UTF-8 text \(byte 0 is 0xe9\); convert it.*iconv"),
        ("latin.jsonl", b'{"text": "\xe9"}\n', "is not UTF-8 text"),
        ("word.docx", b"x", "cannot read this kind of file; it must end in one of .txt, .jsonl"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"\n', "document 2 cannot be read as JSON"),
        ("column.jsonl", b'{"body": "a"}\n', r"document 1 has no text in 'text' \(it has: body\); set text_column"),
        ("number.jsonl", b'{"text": 3}\n', "document 1: its text is int"),
        ("list.jsonl", b"[1]\n", "document 1 has no text in 'text'"),
        ("broken.parquet", b"PAR1 no", "is not a Parquet file"),
        ("empty.arrow", b"", "is not a whole Arrow file"),
        ("text.arrow", b"a text that is none", "is not a whole Arrow file"),
        ("magic.arrow", b"ARROW1 and no more", "is not a whole Arrow file"),
        ("broken.json.gz", b"no gzip", "is not a whole gzip file"),
        ("cut.json.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:30], "is not a whole gzip file"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=f"{re.escape(name)}: .*{message}"):
        list(read_documents(tmp_path / name, "text"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nope\.txt: cannot be read \(No such file"):
        read_documents(tmp_path / "nope.txt", "text")


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_a_table_without_the_column_says_which_there_are(folder: Path, name: str) -> None:
    with pytest.raises(RequestError, match=rf"{name}: has no column 'body' \(it has: text, n\)"):
        read_documents(folder / name, "body")


@pytest.mark.parametrize("name", ["stream.arrow", "file.arrow"])
def test_an_arrow_file_that_was_cut_short_is_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match=rf"{name}: is not a whole Arrow file \(.+\); get it again"):
        read_documents(folder / name, "text")


def test_what_the_datasets_library_saves_is_read(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    assert list(read_documents(tmp_path / "saved" / "data-00000-of-00001.arrow", "text")) == TEXTS


@pytest.mark.parametrize(
    ("values", "row"),
    [([1, 2], "document 1: .* int"), ([["a"], ["b"]], "document 1: .* list"), (["a", None], "document 2: .* null")],
)
def test_a_column_that_holds_no_text_is_refused(tmp_path: Path, values: list[object], row: str) -> None:
    pd.DataFrame({"text": values}).to_parquet(tmp_path / "a.parquet")
    write_arrow(tmp_path / "a.arrow", pyarrow.ipc.new_stream, values)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(RequestError, match=rf"{name}: {row}"):
            list(read_documents(tmp_path / name, "text"))


def test_repeated_texts_that_are_stored_once_are_read(tmp_path: Path) -> None:
    pd.DataFrame({"text": pd.Categorical(["b", "a", "b"])}).to_parquet(tmp_path / "a.parquet")
    assert list(read_documents(tmp_path / "a.parquet", "text")) == ["b", "a", "b"]


def test_a_column_that_is_not_utf8_is_refused_when_the_file_is_opened(tmp_path: Path) -> None:
    latin = pyarrow.Array.from_buffers(pyarrow.binary(), 1, pyarrow.array([b"\xe9"]).buffers()).view(pyarrow.string())
    table = pyarrow.table({"text": latin})
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.arrow", "a.parquet"):
        with pytest.raises(RequestError, match=rf"{name}: .*UTF8"):
            read_documents(tmp_path / name, "text")
