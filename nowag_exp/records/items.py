"""The outcome of every zero-shot item, in a Parquet file beside its record, for tests that pair two models.

One row an item: ``suite``, ``task``, ``item`` (its number), ``item_hash``, ``target`` and ``answer`` (numbers of
choices), ``answer_norm`` (by log-likelihood a character), ``acc``, ``acc_norm`` (0 or 1), ``loglikelihoods`` of the
choices, and, if the dense model was there, ``flips``: 1 if exactly one of the two was right.
"""

import functools
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nowag_exp.errors import RequestError
from nowag_exp.files import atomic_write, sha256_file

if TYPE_CHECKING:
    from nowag_exp.records.record import RunRecord


def items_path(results: Path, fingerprint: str) -> Path:
    """Where the items of an experiment are kept."""
    return results / "runs" / f"{fingerprint}.items.parquet"


def to_parquet(items: pd.DataFrame) -> bytes:
    """The file's content: same items, same bytes."""
    content = io.BytesIO()
    items.to_parquet(content, index=False, compression="zstd")
    return content.getvalue()


def from_parquet(content: bytes) -> pd.DataFrame:
    """What :func:`to_parquet` made."""
    return pd.read_parquet(io.BytesIO(content))


def save_items(results: Path, fingerprint: str, items: pd.DataFrame) -> str:
    """Write the items, whole or not at all; returns their sha256, which the record holds."""
    content = to_parquet(items)
    with atomic_write(items_path(results, fingerprint), len(content)) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def require_items(results: Path, record: "RunRecord") -> None:
    """Check that the items of a record are what it was written with.

    Raises:
        RequestError: if they are not, or their file is missing.
    """
    path = items_path(results, record.fingerprint)
    try:
        found = sha256_file(path)
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be read ({error.strerror}), so its record cannot be compared item by item; remove "
            f"{record.fingerprint}.json beside it and run its experiment again"
        ) from error
    if found != record.items_sha256:
        raise RequestError(f"{path}: is not what its record was written with; remove both and run the experiment again")


def load_items(results: Path, record: "RunRecord") -> pd.DataFrame:
    """The items of a record.

    Raises:
        RequestError: as :func:`require_items`.
    """
    require_items(results, record)
    return _load(items_path(results, record.fingerprint), record.items_sha256)


@functools.lru_cache(maxsize=64)
def _load(path: Path, sha256: str) -> pd.DataFrame:
    """Read once for each content that the file has had."""
    return from_parquet(path.read_bytes())
