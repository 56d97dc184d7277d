"""A model in the cache is made once, and again if any of its files was lost or changed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nowag_exp.models.converted import SOURCE, converted

FILES = {"config.json": "{}", "generation_config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "{}"}


@pytest.fixture
def get(tmp_path: Path) -> Callable[[], int]:
    """Asks for the model; returns how often it has been made."""
    made: list[Path] = []

    def convert(folder: Path) -> dict[str, object]:
        made.append(folder)
        for name, content in FILES.items():
            (folder / name).write_text(content)
        return {"wheel": "of a name"}

    def _get() -> int:
        assert converted(tmp_path / "model", convert) == tmp_path / "model"
        assert {name: (tmp_path / "model" / name).read_text() for name in FILES} == FILES
        return len(made)

    return _get


def test_a_model_is_made_once_and_says_what_it_was_made_from(get: Callable[[], int], tmp_path: Path) -> None:
    assert [get(), get()] == [1, 1]
    source = json.loads((tmp_path / "model" / SOURCE).read_text())
    assert source["wheel"] == "of a name"
    assert set(source["files"]) == set(FILES)


@pytest.mark.parametrize("name", [*FILES, SOURCE])
@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("other")], ids=["lost", "changed"])
def test_a_model_that_lost_or_changed_a_file_is_made_again(
    get: Callable[[], int], tmp_path: Path, name: str, spoil: Callable[[Path], object]
) -> None:
    assert get() == 1
    spoil(tmp_path / "model" / name)
    assert [get(), get()] == [2, 2]


def test_a_model_from_before_lists_had_checksums_is_kept(get: Callable[[], int], tmp_path: Path) -> None:
    assert get() == 1
    path = tmp_path / "model" / SOURCE
    source = json.loads(path.read_text())
    del source["checksum"], source["files"]["generation_config.json"]
    path.write_text(json.dumps(source))
    assert get() == 1
