"""Checkpoints that are made here, once, and kept in the cache with the hashes of their files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nowag_exp.files import made_once
from nowag_exp.manifest import DamageError, check_manifest, write_manifest

SOURCE = "source.json"


def converted(path: Path, convert: Callable[[Path], Mapping[str, Any]]) -> Path:
    """A checkpoint in the cache, made if it is not there, and again if its files are not what they were then.

    Args:
        path: of the folder.
        convert: writes a checkpoint into a folder, and says what it was made from.
    """

    def make(folder: Path) -> None:
        write_manifest(folder / SOURCE, convert(folder))

    made_once(path, make, _is_intact)
    return path


def _is_intact(folder: Path) -> bool:
    try:
        check_manifest(folder / SOURCE)
    except DamageError:
        return False
    return True
