"""Checkpoints that are made here, once, and kept in the cache with the hashes of their files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nowag_exp.errors import RequestError
from nowag_exp.files import made_once, parse_json
from nowag_exp.models.checkpoint import Checkpoint

SOURCE = "source.json"


def converted(path: Path, convert: Callable[[Path], Mapping[str, Any]]) -> Path:
    """A checkpoint in the cache, made if it is not there, and again if its files are not what they were then.

    Args:
        path: of the folder.
        convert: writes a checkpoint into a folder, and says what it was made from.
    """

    def make(folder: Path) -> None:
        source = {**convert(folder), "files": Checkpoint(folder).hashes()}
        (folder / SOURCE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")

    made_once(path, make, _is_intact)
    return path


def _is_intact(folder: Path) -> bool:
    try:
        return Checkpoint(folder).hashes() == parse_json((folder / SOURCE).read_text(encoding="utf-8"))["files"]
    except (RequestError, OSError, ValueError, KeyError, TypeError):
        return False
