"""The same documents through every reader and packing: the same texts, marks and refusals."""

import codecs
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nowag_exp.errors import RequestError
from nowag_exp.text.readers import read_documents

MARK = codecs.BOM_UTF8
Write = Callable[[list[Any]], bytes]


def column(values: list[Any]) -> pyarrow.Array:
    """Of UTF-8 where it may be, and of bytes that say to be where not: as a careless program writes them."""
    if any(not isinstance(value, str | None) for value in values):
        return pyarrow.array(values)
    stored = [None if value is None else value.encode("utf-8", "surrogatepass") for value in values]
    binary = pyarrow.array(stored, pyarrow.binary())
    return pyarrow.Array.from_buffers(pyarrow.string(), len(values), binary.buffers())


def parquet(values: list[Any]) -> bytes:
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": column(values)}), content)
    return content.getvalue()


def arrow(values: list[Any]) -> bytes:
    content, table = io.BytesIO(), pyarrow.table({"text": column(values)})
    with pyarrow.ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return content.getvalue()


def lines(values: list[Any]) -> bytes:
    return "".join(json.dumps({"text": value}) + "\n" for value in values).encode()


def array(values: list[Any]) -> bytes:
    return json.dumps([{"text": value} for value in values], indent=1).encode()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content, 1, mtime=0),
    ".zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True),
}
OF_LINES: dict[str, Write] = {".jsonl": lines, ".NDJSON": lines, ".json": array, ".Json": lines}
TABLES: dict[str, Write] = {".parquet": parquet, ".ARROW": arrow}

characters = st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from("\ufeff\u2028\r\n😀")
texts = st.lists(st.text(characters, max_size=6), min_size=1, max_size=4).filter(
    lambda found: any(map(str.strip, found))
)
faulty = st.sampled_from(["a\0b", "a\ud83d", "\ude00", None])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


def written(folder: Path, values: list[Any], mark: bytes = b"") -> list[Path]:
    """The documents in every kind of file, those of text opening with a mark."""
    paths = []
    for suffix, write in TABLES.items():
        paths.append(folder / f"a{suffix}")
        paths[-1].write_bytes(write(values))
    plain = {".txt": lambda found: found[0].encode("utf-8", "surrogatepass")} if len(values) == 1 and values[0] else {}
    for suffix, write in {**OF_LINES, **plain}.items():
        for packing, pack in PACKINGS.items():
            paths.append(folder / f"a{suffix}{packing}")
            paths[-1].write_bytes(pack(mark + write(values)))
    return paths


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=texts)
def test_every_reader_gives_the_same_texts_and_leaves_out_the_mark_of_a_file_alone(
    folder: Path, values: list[str]
) -> None:
    for path in written(folder, values, MARK):
        documents = read_documents(path, "text")
        assert list(documents) == values, path.name
        is_table = path.suffix in TABLES
        assert documents.marked == (() if is_table else (path.name,))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(before=texts, bad=faulty)
def test_every_reader_refuses_what_one_refuses_and_names_file_and_document(
    folder: Path, before: list[str], bad: Any
) -> None:
    for path in written(folder, [*before, bad]):
        with pytest.raises(RequestError) as caught:
            list(read_documents(path, "text"))
        message = str(caught.value)
        assert message.startswith(str(path))
        if not (path.suffix in TABLES and bad and "\0" not in bad):  # pyarrow finds bad UTF-8 in the whole column.
            assert f"document {len(before) + 1}" in message, message
        assert "text_column" not in message


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".TXT.zst", ".jsonl", ".json.gz"])
@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32-le", "UTF-32LE"),
        ("utf-32-be", "UTF-32BE"),
        ("gbk", "ENCODING"),
    ],
)
def test_another_encoding_is_named_if_it_can_be_told_and_is_not_guessed_otherwise(
    tmp_path: Path, suffix: str, encoding: str, named: str
) -> None:
    path, text = tmp_path / f"a{suffix}", "A text, 中文, of some length."
    content = (text if ".txt" in suffix.lower() else json.dumps({"text": text}, ensure_ascii=False)).encode(encoding)
    path.write_bytes(PACKINGS[path.suffix if path.suffix in PACKINGS else ""](content))
    with pytest.raises(RequestError, match=rf"iconv -f {named} ") as caught:
        list(read_documents(path, "text"))
    assert str(caught.value).startswith(str(path))


def test_utf16_that_was_converted_from_latin1_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("A text.".encode("utf-16").decode("latin1"), encoding="utf-8")
    with pytest.raises(RequestError, match=r"a\.txt: document 1: .*UTF-16"):
        list(read_documents(path, "text"))


@pytest.mark.parametrize("cut", [5, 20])
def test_a_cut_or_damaged_zstd_file_is_refused_by_name(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(PACKINGS[".zst"](lines(["some text"] * 9))[:cut])
    with pytest.raises(RequestError, match=r"a\.jsonl\.zst: is not a whole zstd file"):
        read_documents(path, "text")


def test_frames_of_zstd_behind_each_other_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(PACKINGS[".zst"](lines(["one"])) + PACKINGS[".zst"](lines(["two"])))
    assert list(read_documents(path, "text")) == ["one", "two"]


def test_the_arrays_and_suffixes_are_those_that_datasets_reads(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    for name, content in {"a.json": array(["one", "two"]), "b.JSONL.GZ": gzip.compress(lines(["one", "two"]))}.items():
        (tmp_path / name).write_bytes(content)
        theirs = datasets.load_dataset(
            "json", data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert list(read_documents(tmp_path / name, "text")) == theirs["text"][:]
