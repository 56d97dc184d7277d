"""A file that lists the others of its folder with their sha256, so that what is lost or changed is found and named."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from nowag_exp.checksum import is_as_written, with_checksum
from nowag_exp.files import parse_json, sha256_file


class DamageError(Exception):
    """A file of a folder is missing, or is not the one that was listed; names it, and leaves the way out to others."""


def write_manifest(path: Path, about: Mapping[str, Any] | None = None) -> None:
    """List what a folder and the folders in it hold by now.

    Args:
        path: of the list, in that folder.
        about: what the list says beside it.
    """
    folder = path.parent
    others = sorted(file for file in folder.rglob("*") if file.is_file() and file != path)
    content = {**(about or {}), "files": {file.relative_to(folder).as_posix(): sha256_file(file) for file in others}}
    path.write_text(with_checksum(content), encoding="utf-8")


def check_manifest(path: Path, unread: tuple[str, ...] = ()) -> list[Path]:
    """Hold a folder against its list, and return the files in it; others may lie beside them.

    Args:
        path: of the list.
        unread: how the names of files end that need only be there.

    Raises:
        DamageError: naming the first file that is missing or changed; the list is one of them.
    """
    listed = _listed(path, all_are_read=not unread)
    for name, sha256 in listed.items():
        file = path.parent / name
        try:
            if not file.is_file():
                raise DamageError(f"{file}: is missing")
            if not name.endswith(unread) and sha256_file(file) != sha256:
                raise DamageError(f"{file}: is not the file that was written (its sha256 is another)")
        except OSError as error:
            raise DamageError(f"{file}: cannot be read ({error.strerror})") from error
    return [path.parent / name for name in listed]


def _listed(path: Path, all_are_read: bool) -> dict[str, Any]:
    if not path.is_file():
        raise DamageError(f"{path}: is missing")
    try:
        written = path.read_bytes()
        content = parse_json(written)
        files = content["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{path}: cannot be read ({error!r})") from error
    # Lists in caches of older versions have no checksum; nor need they, where the hash of every file is compared.
    may_lack_checksum = all_are_read and "checksum" not in content
    if not may_lack_checksum and not is_as_written(written):
        raise DamageError(f"{path}: is not the file that was written (its checksum is another)")
    if not isinstance(files, dict) or not files:
        raise DamageError(f"{path}: lists no files")
    if strays := [name for name in files if not _is_within(name)]:
        raise DamageError(f"{path}: lists {strays[0]!r}, which is outside the folder")
    return files


def _is_within(name: str) -> bool:
    path = PurePath(name)
    return bool(path.parts) and not path.anchor and ".." not in path.parts
