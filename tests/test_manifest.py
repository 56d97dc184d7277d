"""A folder is held against the list of its files: what is lost, changed or made to harm is named."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nowag_exp.manifest import DamageError, check_manifest, write_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Of a folder of two files."""
    (tmp_path / "a.json").write_text("[1, 2]")
    (tmp_path / "b.safetensors").write_bytes(bytes(100))
    write_manifest(tmp_path / "manifest.json", {"seed": 3})
    return tmp_path / "manifest.json"


def test_the_list_holds_the_sha256_of_every_other_file_and_what_it_is_to_say(manifest: Path) -> None:
    def of(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    listed = {"a.json": of(b"[1, 2]"), "b.safetensors": of(bytes(100))}
    said = json.loads(manifest.read_text())
    assert (said["seed"], said["files"]) == (3, listed)


def test_files_in_folders_are_listed_by_their_paths_and_held_like_the_others(manifest: Path) -> None:
    inner = manifest.parent / "templates" / "tools.jinja"
    inner.parent.mkdir()
    inner.write_text("{{ tools }}")
    write_manifest(manifest)
    assert set(json.loads(manifest.read_text())["files"]) == {"a.json", "b.safetensors", "templates/tools.jinja"}
    assert inner in check_manifest(manifest)
    inner.write_text("{{ tool }}")
    with pytest.raises(DamageError, match=r"templates/tools\.jinja: is not the file"):
        check_manifest(manifest)


def test_writing_the_list_again_gives_the_same_bytes(manifest: Path) -> None:
    before = manifest.read_bytes()
    write_manifest(manifest, {"seed": 3})
    assert manifest.read_bytes() == before


def test_a_folder_that_is_as_it_was_passes_wherever_it_lies_and_whatever_lies_beside(manifest: Path) -> None:
    (manifest.parent / "notes.txt").write_text("mine")
    moved = manifest.parent.rename(manifest.parent.with_name("moved"))
    check_manifest(moved / "manifest.json")


@pytest.mark.parametrize("name", ["a.json", "b.safetensors"])
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content[:-1] + b"\x07"])
def test_a_file_that_was_cut_or_changed_is_named(manifest: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = manifest.parent / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DamageError, match=rf"{path}: is not the file that was written"):
        check_manifest(manifest)


@pytest.mark.parametrize("name", ["a.json", "b.safetensors", "manifest.json"])
def test_a_file_that_is_gone_is_named_even_if_it_would_not_be_read(manifest: Path, name: str) -> None:
    (manifest.parent / name).unlink()
    for unread in ((), (".safetensors",)):
        with pytest.raises(DamageError, match=f"{manifest.parent / name}: is missing"):
            check_manifest(manifest, unread)


def test_a_file_that_is_not_to_be_read_is_not_read(manifest: Path) -> None:
    (manifest.parent / "b.safetensors").write_bytes(b"other")
    check_manifest(manifest, unread=(".safetensors",))


@pytest.mark.parametrize("unread", [(), (".safetensors",)])
def test_a_list_with_any_byte_flipped_is_named(manifest: Path, unread: tuple[str, ...]) -> None:
    """Also in the hash of a file that is not read."""
    content = manifest.read_bytes()
    for place in range(len(content)):
        manifest.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        if unread or b'"checksum"' in manifest.read_bytes():
            with pytest.raises(DamageError, match=f"^{manifest}: "):
                check_manifest(manifest, unread)


def test_a_list_of_an_older_cache_has_no_checksum_and_vouches_for_files_that_are_read_alone(manifest: Path) -> None:
    said = json.loads(manifest.read_text())
    del said["checksum"]
    manifest.write_text(json.dumps(said))
    check_manifest(manifest)
    with pytest.raises(DamageError, match=f"{manifest}: is not the file that was written"):
        check_manifest(manifest, unread=(".safetensors",))
    (manifest.parent / "b.safetensors").write_bytes(b"other")
    with pytest.raises(DamageError, match=r"b\.safetensors: is not the file that was written"):
        check_manifest(manifest)


def test_a_folder_in_the_place_of_a_file_is_no_file(manifest: Path) -> None:
    (manifest.parent / "a.json").unlink()
    (manifest.parent / "a.json").mkdir()
    with pytest.raises(DamageError, match=r"a\.json: is missing"):
        check_manifest(manifest)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"files": []}',
        '{"files": {}}',
        '{"files": {"a.json": "", "a.json": ""}}',
        '{"files": {"a.json": 3}}',
        '{"files": {"a.json": null}}',
        '{"files": {"../secret": ""}}',
        '{"files": {"/etc/passwd": ""}}',
        '{"files": {"": ""}}',
        '{"files": {".": ""}}',
        '{"files": {"..": ""}}',
        '{"files": {"templates/../../secret": ""}}',
        '{"files": {"\\u0000": ""}}',
        f'{{"files": {{"{"x" * 5000}": ""}}}}',
        "[" * 100_000,
        "\ufeff{}",
    ],
)
def test_a_list_that_is_none_or_leads_elsewhere_passes_nothing(manifest: Path, content: str) -> None:
    manifest.write_text(content, encoding="utf-8")
    with pytest.raises(DamageError, match=str(manifest.parent)):
        check_manifest(manifest)
