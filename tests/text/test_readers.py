import gzip
import json
import re
from pathlib import Path

import pandas as pd
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
    return tmp_path


@pytest.mark.parametrize("name", ["a.jsonl", "unended.jsonl", "blank.jsonl", "a.json.gz", "a.parquet"])
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
        ("broken.jsonl", b'{"text": "a"}\n{"text"\n', "document 2 is not JSON"),
        ("column.jsonl", b'{"body": "a"}\n', r"document 1 has no text in 'text' \(it has: body\); set text_column"),
        ("number.jsonl", b'{"text": 3}\n', "document 1 has no text in 'text'"),
        ("list.jsonl", b"[1]\n", "document 1 has no text in 'text'"),
        ("broken.parquet", b"PAR1 no", "is not a Parquet file"),
        ("broken.json.gz", b"no gzip", "is not a whole gzip file"),
        ("cut.json.gz", gzip.compress(b'{"text": "a"}\n' * 99)[:30], "is not a whole gzip file"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=f"{re.escape(name)}: .*{message}"):
        list(read_documents(tmp_path / name, "text"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nope\.txt: cannot be read \(No such file"):
        read_documents(tmp_path / "nope.txt", "text")


def test_a_parquet_file_without_the_column_says_which_there_are(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"has no column 'body' \(it has: text, n\)"):
        read_documents(folder / "a.parquet", "body")


@pytest.mark.parametrize("values", [[1, 2], [["a"], ["b"]], ["a", None]])
def test_a_parquet_column_that_holds_no_text_is_refused(tmp_path: Path, values: list[object]) -> None:
    pd.DataFrame({"text": values}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=r"a\.parquet: row \d has no text in 'text' but \w+; set text_column"):
        read_documents(tmp_path / "a.parquet", "text")
