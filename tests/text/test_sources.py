import gzip
import json
import shlex
from pathlib import Path

import pandas as pd
import pytest

from nowag_exp.errors import RequestError
from nowag_exp.text import HubText, LocalText
from nowag_exp.text.documents import Chained
from tests.text.documents import given_texts


class Text(LocalText):
    key = "calibration"


def text(path: Path | str) -> Text:
    return Text(path=str(path), text_column="text")


def test_matches_of_a_glob_are_read_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert list(text(tmp_path / "*.txt").documents()) == ["a", "b", "c"]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("here")
    assert list(text(tmp_path / "a[1].txt").documents()) == ["here"]


def test_a_path_that_matches_nothing_says_so_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"calibration\.path=.*no\.txt: no such file; give a \.txt, \.jsonl, \.json, \.parquet or"
    ):
        text(tmp_path / "no.txt").documents()


def test_chained_lists_are_one_list() -> None:
    chained = Chained([given_texts("a", "b"), given_texts(), given_texts("c")])
    assert list(chained) == ["a", "b", "c"]
    assert len(chained) == 3
    assert (chained[-1], chained[-3]) == ("c", "a")
    assert list(chained[1:]) == ["b", "c"]
    assert [chained.place(i) for i in range(3)] == ["given: document 1", "given: document 2", "given: document 1"]
    assert chained[1:].place(1) == "given: document 1"
    for index in (3, -4):
        with pytest.raises(IndexError):
            chained[index]


class Copies(HubText):
    key = "calibration"


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def copies(data_dir: Path, files: tuple[str, ...] = ("en/a-00000-of-00002.json.gz",), **others: object) -> Copies:
    settings = {"repo": "owner/texts", "revision": COMMIT, "text_column": "text", "first_documents": None}
    return Copies(**{**settings, "files": files, "data_dir": str(data_dir), **others})


def rows(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """As ``hf download --repo-type dataset owner/texts FILE --local-dir data/owner/texts`` leaves it."""
    folder = tmp_path / "data" / "owner" / "texts" / "en"
    folder.mkdir(parents=True)
    (folder / "a-00000-of-00002.json.gz").write_bytes(gzip.compress(rows(["one", "two"])))
    (folder / "a-00001-of-00002.json.gz").write_bytes(gzip.compress(rows(["three"])))
    return tmp_path / "data"


def test_copies_are_read_in_the_order_of_files_without_asking_the_hub(data_dir: Path) -> None:
    files = ("en/a-00001-of-00002.json.gz", "en/a-00000-of-00002.json.gz")
    assert list(copies(data_dir, files).documents()) == ["three", "one", "two"]
    assert list(copies(data_dir, files, first_documents=2).documents()) == ["three", "one"]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".jsonl.gz", ".arrow"])
def test_a_converted_copy_stands_in_for_the_file(data_dir: Path, suffix: str) -> None:
    original = data_dir / "owner" / "texts" / "en" / "a-00000-of-00002.json.gz"
    converted = original.with_name("a-00000-of-00002" + suffix)
    table = pd.DataFrame({"text": ["one", "two"]})
    match suffix:
        case ".parquet":
            table.to_parquet(converted)
        case ".arrow":
            table.to_feather(converted, compression="uncompressed")
        case ".jsonl":
            converted.write_bytes(rows(["one", "two"]))
        case _:
            converted.write_bytes(gzip.compress(rows(["one", "two"])))
    original.unlink()
    assert list(copies(data_dir).documents()) == ["one", "two"]
    assert copies(data_dir).source_identity()["files"][0]["suffix"] == suffix


def test_the_exact_file_comes_before_a_converted_one(data_dir: Path) -> None:
    (data_dir / "owner" / "texts" / "en" / "a-00000-of-00002.jsonl").write_bytes(rows(["other"]))
    assert list(copies(data_dir).documents()) == ["one", "two"]


def test_a_text_file_stands_in_for_no_table(data_dir: Path) -> None:
    folder = data_dir / "owner" / "texts" / "en"
    (folder / "a-00000-of-00002.json.gz").rename(folder / "a-00000-of-00002.txt")
    with pytest.raises(RequestError, match="there is neither"):
        copies(data_dir).documents()


def test_copies_are_identified_by_content_wherever_they_lie(data_dir: Path, tmp_path: Path) -> None:
    here = copies(data_dir).source_identity()
    data_dir.rename(tmp_path / "moved")
    moved = copies(tmp_path / "moved", revision="main")
    assert moved.source_identity() == here
    assert str(tmp_path) not in json.dumps(here)
    assert copies(tmp_path / "moved", first_documents=1).source_identity() != here
    assert copies(tmp_path / "moved", text_column="body").source_identity() != here
    file = tmp_path / "moved" / "owner" / "texts" / "en" / "a-00000-of-00002.json.gz"
    file.write_bytes(gzip.compress(rows(["one", "two!"])))
    assert moved.source_identity() != here


def test_a_missing_copy_is_an_error_with_the_command_that_gets_it(tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    with pytest.raises(RequestError) as caught:
        copies(folder).documents()
    message = str(caught.value)
    assert message.startswith(f"calibration.data_dir={folder}: there is neither {folder}/owner/texts/en/a-00000")
    for known in (".parquet", ".jsonl", ".jsonl.gz", ".arrow"):
        assert f" a-00000-of-00002{known}" in message
    assert shlex.split(message.partition("run: ")[2]) == [
        *("hf", "download", "--repo-type", "dataset", "owner/texts", "en/a-00000-of-00002.json.gz"),
        *("--revision", COMMIT, "--local-dir", f"{folder}/owner/texts"),
    ]


@pytest.mark.parametrize(
    ("repo", "file", "key"),
    [
        ("owner/texts", "../../../secret.jsonl", "files"),
        ("owner/texts", "/secret.jsonl", "files"),
        ("../owner", "secret.jsonl", "repo"),
        ("/owner", "secret.jsonl", "repo"),
    ],
)
def test_nothing_outside_data_dir_is_read(tmp_path: Path, repo: str, file: str, key: str) -> None:
    (tmp_path / "secret.jsonl").write_bytes(rows(["secret"]))
    (tmp_path / "data" / "owner" / "texts").mkdir(parents=True)
    for read in (HubText.documents, HubText.source_identity):
        with pytest.raises(RequestError, match=rf"calibration\.{key}: .* leads out of data_dir=.*; give a path within"):
            read(copies(tmp_path / "data", (file,), repo=repo))


def test_a_copy_may_be_a_link_to_where_the_cluster_keeps_it(data_dir: Path, tmp_path: Path) -> None:
    (data_dir / "owner").rename(tmp_path / "elsewhere")
    (data_dir / "owner").symlink_to(tmp_path / "elsewhere")
    assert list(copies(data_dir).documents()) == ["one", "two"]


def test_a_byte_order_mark_is_part_of_the_identity_and_its_absence_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"here")
    (plain,) = text(path).source_identity()["files"]
    path.write_bytes(b"\xef\xbb\xbfhere")
    (marked,) = text(path).source_identity()["files"]
    assert set(plain) == {"sha256", "suffix", "text_column"}
    assert "byte_order_mark" in marked
