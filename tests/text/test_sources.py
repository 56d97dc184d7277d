from pathlib import Path

import pytest

from nowag_exp.errors import RequestError
from nowag_exp.text import LocalText
from nowag_exp.text.sources import Chained


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
        RequestError, match=r"calibration\.path=.*no\.txt: no such file; give a \.txt, \.jsonl or \.parquet"
    ):
        text(tmp_path / "no.txt").documents()


def test_chained_lists_are_one_list() -> None:
    chained = Chained([["a", "b"], [], ["c"]])
    assert list(chained) == ["a", "b", "c"]
    assert len(chained) == 3
    assert (chained[-1], chained[-3]) == ("c", "a")
    assert chained[1:] == ["b", "c"]
    for index in (3, -4):
        with pytest.raises(IndexError):
            chained[index]
