"""Parquet and Arrow files, whoever wrote them: they may expand as much as a compressed text, and no more."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nowag_exp.errors import RequestError
from nowag_exp.files import expands_too_much, most_expanded

if TYPE_CHECKING:
    import pyarrow

ROW_BYTES = 8
"""That a row takes at least, for the place of its text."""

MOST_ROWS = 64
"""Decoded at a time. A few bytes of a Parquet file may stand for many rows of a long text that is stored once, so as
many are decoded as fit even if each is all that a row group stores; more would not be faster."""

MOST_AT_ONCE = 1_000_000_000
"""Bytes that a row group stores if its texts are read into one dictionary, which pyarrow fills to 2 GiB at most."""

UNPACKED = "no text does; if it is one, give it as .jsonl"


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> "pyarrow.Table":
    """Columns of a Parquet file; ``None`` for all.

    Raises:
        RequestError: naming the file, if it is damaged, has a column twice or not at all, or expands too much.
        OSError: if there is none.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with _reported(path, "a Parquet file"), ParquetFile(path) as file:
        names = _checked(path, file.schema_arrow, columns)
        left, metadata = _Left(path), file.metadata
        left.take(ROW_BYTES * metadata.num_rows)
        # Not asked of each column: pyarrow ends the process if what is said of one is damaged.
        stored = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        left.require(sum(stored))
        return pyarrow.table({name: _column(path, file, name, max(stored, default=0), left) for name in names})


def read_arrow(path: Path, columns: Sequence[str] | None = None) -> "pyarrow.Table":
    """Columns of an Arrow file, which stays mapped; ``None`` for all.

    Raises:
        RequestError: as :func:`read_parquet`.
        OSError: if there is none.
    """
    import pyarrow

    with _reported(path, "a whole Arrow file"):
        source = pyarrow.memory_map(str(path))
        is_file_format = source.read(6) == b"ARROW1"
        source.seek(0)
        # The datasets library writes the stream format, most others the file format; both under this suffix.
        reader = pyarrow.ipc.open_file(source) if is_file_format else pyarrow.ipc.open_stream(source)
        names = _checked(path, reader.schema, columns)
        left, batches = _Left(path), []
        for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file_format else reader:
            batches.append(_sound(batch.select(names)))
            left.take_columns(batches[-1])
        schema = pyarrow.schema([reader.schema.field(name) for name in names])
        return pyarrow.Table.from_batches(batches, schema)


def decoded_bytes(column: "pyarrow.ChunkedArray") -> int:
    """What a column takes once each row has its own values: as views or in a dictionary, rows may share them.

    Args:
        column: of any type, checked.
    """
    return sum(map(_decoded_bytes, column.chunks))


def _decoded_bytes(values: "pyarrow.Array") -> int:
    from pyarrow import types

    kind = values.type
    if types.is_struct(kind):
        return sum(_decoded_bytes(values.field(i)) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return int(values.nbytes - values.flatten().nbytes) + _decoded_bytes(values.flatten())
    shares = types.is_dictionary(kind) or _is_view(kind)
    return int(_lengths(values).sum()) if shares else int(values.nbytes)


def _is_view(kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_string_view(kind) or types.is_binary_view(kind))


def _lengths(values: "pyarrow.Array") -> np.ndarray:
    """Bytes of each value; none of a null."""
    from pyarrow import compute, types

    if types.is_dictionary(values.type):
        lengths = _lengths(values.dictionary)[values.indices.fill_null(0).to_numpy()] if len(values.dictionary) else 0
    elif _is_view(values.type):  # A view opens with the length; pyarrow has no function for it.
        views = np.frombuffer(values.buffers()[1], "<i4")[4 * values.offset :: 4]
        lengths = views[: len(values)].astype(np.int64)
    elif types.is_primitive(values.type):
        lengths = ROW_BYTES
    else:
        lengths = compute.binary_length(values).fill_null(0).to_numpy()
    return np.where(values.is_valid(), lengths, 0)


class _Left:
    """What a file may still expand to."""

    def __init__(self, path: Path) -> None:
        self._path, self.n_bytes = path, most_expanded(path)
        self._dictionaries: set[int] = set()

    def require(self, n_bytes: int) -> None:
        if n_bytes > self.n_bytes:
            raise RequestError(expands_too_much(self._path, UNPACKED))

    def take(self, n_bytes: int) -> None:
        self.require(n_bytes)
        self.n_bytes -= n_bytes

    def take_columns(self, batch: "pyarrow.RecordBatch") -> None:
        from pyarrow import types

        for column in batch.columns:
            if types.is_dictionary(column.type):  # Batches share it.
                place = column.dictionary.buffers()[-1].address
                self.take(column.indices.nbytes + (0 if place in self._dictionaries else column.dictionary.nbytes))
                self._dictionaries.add(place)
            else:
                self.take(column.nbytes)


def _column(path: Path, file: Any, name: str, stored: int, left: _Left) -> "pyarrow.ChunkedArray":
    """A column of a file whose row groups store so many bytes each, or fewer."""
    import pyarrow
    from pyarrow import types
    from pyarrow.parquet import ParquetFile

    kind = file.schema_arrow.field(name).type
    if types.is_dictionary(kind):  # Stays as it is stored.
        return _sound(file.read(columns=[name])).column(name)
    leaves = map(file.schema.column, range(len(file.schema)))
    texts = [leaf.path for leaf in leaves if _is_text_of(leaf, name)]
    if texts and stored <= MOST_AT_ONCE:
        # pyarrow cannot do so with every encoding; what is wrong with a damaged file is found below.
        with suppress(OSError), ParquetFile(path, metadata=file.metadata, read_dictionary=texts) as shared:
            return _sound(shared.read(columns=[name], use_threads=False)).column(name)
    rows = max(1, min(MOST_ROWS, left.n_bytes // max(stored, 1)))
    chunks = []
    for batch in file.iter_batches(batch_size=rows, columns=[name], use_threads=False):
        left.take(_sound(batch).nbytes)
        chunks.append(batch.column(0))
    return pyarrow.chunked_array(chunks, kind)


def _is_text_of(leaf: Any, column: str) -> bool:
    """Whether texts of a column, perhaps below lists and objects, lie there."""
    return f"{leaf.path}.".startswith(f"{column}.") and leaf.logical_type.type == "STRING"


def _sound(values: Any) -> Any:
    """A table or batch that was checked: of a damaged one pyarrow cannot tell the size without ending the process."""
    values.validate(full=True)
    return values


def _checked(path: Path, schema: "pyarrow.Schema", columns: Sequence[str] | None) -> Sequence[str]:
    """The columns to read."""
    names = schema.names if columns is None else columns
    for name in names:
        if name not in schema.names:
            has = ", ".join(schema.names)
            raise RequestError(f"{path}: has no column '{name}' (it has: {has}); set text_column")
        if schema.names.count(name) > 1:
            raise RequestError(f"{path}: has the column '{name}' twice; remove one")
    return names


@contextmanager
def _reported(path: Path, what: str) -> Iterator[None]:
    """Name the file in errors of pyarrow, whose kind depends on the damage."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, ArithmeticError, MemoryError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:500]
        raise RequestError(f"{path}: is not {what} ({reason}); get it again") from error
