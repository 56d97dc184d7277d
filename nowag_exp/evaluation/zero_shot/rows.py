"""Rows of a data set of the hub, from a local copy of its files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nowag_exp.errors import RequestError
from nowag_exp.files import expands_too_much, most_expanded, parse_json
from nowag_exp.hub import resolve_commit
from nowag_exp.quiet import quiet_harness
from nowag_exp.text.documents import require_texts
from nowag_exp.text.encoding import PACKINGS, decode, read_content, text_start
from nowag_exp.text.tabular import MOST_ROWS, UNPACKED, decoded_bytes, read_arrow, read_parquet

TABLES = (".parquet", ".arrow")
SUFFIXES = (".parquet", ".jsonl", ".json", ".arrow", *(kind + end for end in PACKINGS for kind in (".jsonl", ".json")))
"""The first that there is, is taken."""

UNNAMED = ("", "data", "default", "plain_text")
"""Where the hub keeps the files of a data set that has one configuration."""


def split_files(data_dir: Path, dataset: str, configuration: str | None, split: str) -> list[Path]:
    """The files of one split below ``data_dir/dataset``, in order.

    A configuration's files are taken from its own folder only: another one's would have the same columns.

    Args:
        data_dir: where ``hf download`` put its copies.
        dataset: ``OWNER/NAME``.
        configuration: as the hub calls it; ``None`` if there is only one.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        RequestError: if there are none, or a shard is missing; it says which command gets them.
    """
    folder = data_dir / dataset
    get_them = f"get it with: hf download --repo-type dataset {dataset} --local-dir {folder}"
    folders = UNNAMED if configuration is None else (configuration, f"data/{configuration}")
    patterns = [str(Path(place) / name) for place in folders for name in (f"{split}-*", f"{split}.*", f"{split}/*")]
    for pattern in patterns:
        for suffix in SUFFIXES:
            if files := sorted(path for path in folder.glob(pattern) if _kind(path) == suffix):
                _check_shards(files, get_them)
                return files
    raise RequestError(
        f"{folder}: has no split '{split}'; looked for {', '.join(patterns)} with {', '.join(SUFFIXES)}; {get_them}"
    )


def _check_shards(files: Sequence[Path], get_them: str) -> None:
    for path in files:
        if (of := re.search(r"-of-0*(\d+)\.", path.name)) and int(of[1]) != len(files):
            raise RequestError(f"{path}: {len(files)} of its {of[1]} shards are there; {get_them}")


def read_rows(files: Sequence[Path], columns: Sequence[str]) -> Any:
    """All rows of ``files`` as a ``datasets.Dataset`` in memory; nothing is written to any cache.

    Raises:
        RequestError: naming the file, if it cannot be read, holds no rows, lacks one of ``columns`` or expands too
            much.
    """
    import pyarrow
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from pyarrow import compute

    tables = []
    for path in files:
        try:
            table = _read(path)
        except (OSError, ValueError, TypeError, AttributeError) as error:  # pyarrow's and json's are ValueErrors.
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RequestError(f"{path}: cannot be read ({reason}); download it again") from error
        _check_columns(table.column_names, columns, str(path))
        for column in columns:
            # Not its null_count: a dictionary may hold the null.
            nulls = table[column].is_null()
            if missing := compute.sum(nulls).as_py():  # lm-eval would write "None" into the prompt.
                first = nulls.index(True).as_py() + 1
                raise RequestError(
                    f"{path}: {missing} rows have no '{column}' (the first is row {first}); download it again"
                )
        if sum(map(decoded_bytes, table.columns)) > most_expanded(path):  # The data set would store each row's own.
            raise RequestError(expands_too_much(path, UNPACKED))
        if _kind(path) in TABLES:
            _check_texts((row for batch in table.to_batches(MOST_ROWS) for row in batch.to_pylist()), str(path))
        tables.append(table)
    try:
        rows = pyarrow.concat_tables(tables, promote_options="default")
    except pyarrow.ArrowInvalid as error:
        names = ", ".join(path.name for path in files)
        raise RequestError(f"{files[0].parent}: {names} have other columns ({error}); download them again") from error
    if not rows.num_rows:
        raise RequestError(f"{files[0]}: holds no rows; download it again")
    try:
        return Dataset(InMemoryTable(rows))
    except (ValueError, pyarrow.ArrowException) as error:
        raise RequestError(f"{files[0]}: holds no rows of a data set ({error}); download it again") from error


def hub_commit(dataset: str) -> str:
    """The commit whose rows are taken: the newest, since lm-eval pins none; without network, the newest known here.

    Raises:
        RequestError: if it cannot be found out.
    """
    try:
        return resolve_commit(dataset, "main", "dataset")
    except RequestError as error:
        raise _unavailable(dataset, error) from error


def hub_rows(dataset: str, commit: str, configuration: str | None, split: str, columns: Sequence[str]) -> Any:
    """All rows of one split as a ``datasets.Dataset``, downloaded if they are not in the cache of that library.

    Raises:
        RequestError: if they cannot be had, or lack one of ``columns``.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        with quiet_harness():
            rows = load_dataset(dataset, configuration, split=split, revision=commit)
    except (OSError, ValueError, DatasetsError) as error:
        raise _unavailable(dataset, error) from error
    _check_columns(rows.column_names, columns, f"data set {dataset}, {split}")
    _check_texts(rows.select_columns(list(columns)), f"data set {dataset}, {split}")
    return rows


def _unavailable(dataset: str, error: Exception) -> RequestError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return RequestError(
        f"data set {dataset}: cannot be had from the hub ({reason}); on a machine with network run: "
        f"hf download --repo-type dataset {dataset} --local-dir DIR/{dataset}  and set data_dir=DIR"
    )


def _check_columns(found: Sequence[str], needed: Sequence[str], where: str) -> None:
    if missing := [column for column in needed if column not in found]:
        has = ", ".join(found) or "no rows"
        raise RequestError(f"{where}: has no column '{missing[0]}' (it has: {has}); give the data set's own files")


def _read(path: Path) -> Any:
    import pyarrow

    match _kind(path):
        case ".parquet":
            return read_parquet(path)
        case ".arrow":
            return read_arrow(path)
    content = read_content(path)
    text = decode(content[text_start(content) :], path)
    if text.lstrip().startswith("["):  # One array; else an object a line.
        rows = parse_json(text)
    else:
        # Not splitlines(): a string may hold other line separators than the line feed.
        rows = [parse_json(line) for line in text.split("\n") if line.strip()]
    _check_texts(rows, str(path))  # pyarrow refuses half a surrogate pair without saying where.
    return pyarrow.Table.from_pylist(rows)


def is_marked(path: Path) -> bool:
    """Whether a file of rows opens with a byte-order mark."""
    return _kind(path) not in TABLES and text_start(read_content(path)) > 0


def _kind(path: Path) -> str | None:
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def _check_texts(rows: Iterable[Any], where: str) -> None:
    for number, row in enumerate(rows, 1):
        require_texts(row, f"{where}: row {number}")
