"""Documents of one file: .txt (one document), .jsonl and .json.gz (one a line), .parquet and .arrow (one a row)."""

import gzip
import mmap
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from nowag_exp.errors import RequestError
from nowag_exp.files import expanded, expands_too_much, most_expanded, parse_json
from nowag_exp.text.tabular import UNPACKED, decoded_bytes, read_arrow, read_parquet

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".json.gz", ".parquet", ".arrow")


def read_documents(path: Path, text_column: str) -> Sequence[str]:
    """Documents of ``path`` in file order.

    Raises:
        RequestError: naming the file, if it is missing, unreadable, empty, not UTF-8, not what its suffix says, or
            lacks ``text_column``.
    """
    try:
        documents = _read(path, text_column)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error}); give a file that exists") from error
    except UnicodeDecodeError as error:
        raise RequestError(_not_utf8(path, "", error)) from error
    if not any(document.strip() for document in documents[:64]) and not any(map(str.strip, documents)):
        raise RequestError(f"{path}: holds no text; give a file with some")
    return documents


def suffix(path: Path) -> str:
    """Which of the known suffixes a file has, and so how it is read.

    Raises:
        RequestError: if it has none of them.
    """
    for known in SUFFIXES:
        if path.name.endswith(known):
            return known
    raise RequestError(f"{path}: cannot read this kind of file; it must end in one of {', '.join(SUFFIXES)}")


def _read(path: Path, text_column: str) -> Sequence[str]:
    match suffix(path):
        case ".txt":
            return [path.read_bytes().decode("utf-8")]
        case ".parquet":
            return ArrowColumn(path, read_parquet(path, [text_column])[text_column], text_column)
        case ".arrow":
            return ArrowColumn(path, read_arrow(path, [text_column])[text_column], text_column)
        case ".jsonl":
            return JsonLines(path, path.read_bytes() if path.stat().st_size == 0 else _map(path), text_column)
        case _:
            return JsonLines(path, _unzip(path), text_column)


def _unzip(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return b"".join(expanded(file, path, UNPACKED))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RequestError(f"{path}: is not a whole gzip file ({error}); get it again") from error


class JsonLines(Sequence[str]):
    """Lines of a JSON Lines file, parsed when asked for: a draw needs few of the millions of documents.

    Args:
        path: named in errors.
        content: the bytes of the file.
        text_column: key of the text in each line.
    """

    def __init__(self, path: Path, content: bytes | mmap.mmap, text_column: str) -> None:
        self._path, self._content, self._text_column = path, content, text_column
        self._spans: list[tuple[int, int]] = []
        start = 0
        while start < len(content):
            end = content.find(b"\n", start)
            end = len(content) if end < 0 else end
            if end - start > 2 or content[start:end].strip():  # A blank line is no document.
                self._spans.append((start, end))
            start = end + 1

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start, end = self._spans[index]
        line = self._content[start:end]
        where = f"{self._path}: document {index + 1}"
        try:
            row = parse_json(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(_not_utf8(self._path, f"document {index + 1}, ", error)) from error
        except ValueError as error:
            reason = getattr(error, "msg", error)
            raise RequestError(
                f"{where} cannot be read as JSON ({reason}); each line must be one JSON object"
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get(self._text_column), str):
            has = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
            raise RequestError(f"{where} has no text in '{self._text_column}' (it has: {has}); set text_column")
        return row[self._text_column]


def _not_utf8(path: Path, where: str, error: UnicodeDecodeError) -> str:
    return (
        f"{path}: is not UTF-8 text ({where}byte {error.start} is 0x{error.object[error.start]:02x}); "
        f"convert it, for example: iconv -f LATIN1 -t UTF-8 {path.name}"
    )


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class ArrowColumn(Sequence[str]):
    """Rows of a column, turned into strings when asked for: of a file that is mapped, only those are read.

    Args:
        path: named in errors.
        column: the text.
        text_column: its name.

    Raises:
        RequestError: naming the first row that has no text, or the file if its texts expand too much.
    """

    def __init__(self, path: Path, column: "pyarrow.ChunkedArray", text_column: str) -> None:
        from pyarrow import types

        self._column = column
        values = column.type.value_type if types.is_dictionary(column.type) else column.type
        is_text = types.is_string(values) or types.is_large_string(values) or types.is_string_view(values)
        # Not its null_count: a dictionary may hold the null.
        number = column.is_null().index(True).as_py() if is_text else 0
        if number < 0:
            if decoded_bytes(column) > most_expanded(path):
                raise RequestError(expands_too_much(path, UNPACKED))
            return
        kind = type(column[number].as_py()).__name__ if len(column) else str(column.type)
        raise RequestError(f"{path}: row {number + 1} has no text in '{text_column}' but {kind}; set text_column")

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._column[index].to_pylist() if isinstance(index, slice) else self._column[index].as_py()
