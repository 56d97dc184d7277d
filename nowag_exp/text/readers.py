"""Documents of one file: .txt (one document), .jsonl or .json (one a line, or an array), .parquet, .arrow (rows)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nowag_exp.errors import RequestError
from nowag_exp.files import expands_too_much, most_expanded, parse_json
from nowag_exp.text.documents import Documents
from nowag_exp.text.encoding import PACKINGS, Content, decode, read_content, text_start
from nowag_exp.text.tabular import UNPACKED, decoded_bytes, read_arrow, read_parquet

if TYPE_CHECKING:
    import pyarrow

LINES = (".txt", ".jsonl", ".ndjson", ".json")
SUFFIXES = (*LINES, ".parquet", ".arrow", *(kind + packing for packing in PACKINGS for kind in LINES))


def read_documents(path: Path, text_column: str) -> Documents:
    """Documents of ``path`` in file order, each of them checked when it is asked for.

    Raises:
        RequestError: naming the file, if it is missing, unreadable, empty, not UTF-8, not what its suffix says, or
            lacks ``text_column``.
    """
    try:
        documents = _read(path, text_column)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error}); give a file that exists") from error
    if not any(document.strip() for document in documents):
        raise RequestError(f"{path}: holds no text; give a file with some")
    return documents


def suffix(path: Path) -> str:
    """Which of the known suffixes a file has, in lower case, and so how it is read.

    Raises:
        RequestError: if it has none of them.
    """
    for known in SUFFIXES:
        if path.name.lower().endswith(known):
            return known
    raise RequestError(f"{path}: cannot read this kind of file; it must end in one of {', '.join(SUFFIXES)}")


def is_plain(path: Path) -> bool:
    """Whether a file is one document, which has no column."""
    return suffix(path).startswith(".txt")


def _read(path: Path, text_column: str) -> Documents:
    match suffix(path):
        case ".parquet":
            return ArrowColumn(path, read_parquet(path, [text_column])[text_column])
        case ".arrow":
            return ArrowColumn(path, read_arrow(path, [text_column])[text_column])
    content = read_content(path)
    start = text_start(content)
    if is_plain(path):
        documents: Documents = PlainText(path, decode(content[start:], path))
    elif content[start : start + 1024].lstrip()[:1] == b"[":
        documents = Records(path, _array(path, content[start:]), text_column)
    else:
        documents = JsonLines(path, content, start, text_column)
    documents.marked = (path.name,) if start else ()
    return documents


def _array(path: Path, content: bytes) -> list[Any]:
    try:
        return list(parse_json(decode(content, path)))
    except ValueError as error:
        reason = getattr(error, "msg", error)
        raise RequestError(f"{path}: cannot be read as JSON ({reason}); it must be one array of objects") from error


class OfFile(Documents):
    """Documents of one file.

    Attributes:
        path: of the file.
    """

    path: Path

    def place(self, index: int) -> str:
        return f"{self.path}: document {index + 1}"


class PlainText(OfFile):
    """A file that is one document.

    Args:
        path: named in errors.
        text: it.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path, self._text = path, text

    def __len__(self) -> int:
        return 1

    def value(self, index: int) -> str:
        return self._text


class Records(OfFile):
    """Objects of a JSON array.

    Args:
        path: named in errors.
        rows: the objects.
        text_column: key of the text in each.
    """

    def __init__(self, path: Path, rows: list[Any], text_column: str) -> None:
        self.path, self._rows, self._text_column = path, rows, text_column

    def __len__(self) -> int:
        return len(self._rows)

    def value(self, index: int) -> Any:
        return _text_of(self._rows[index], self._text_column, self.place(index))


class JsonLines(OfFile):
    """Lines of a JSON Lines file, parsed when asked for.

    Args:
        path: named in errors.
        content: the bytes of the file.
        start: of the first line.
        text_column: key of the text in each line.
    """

    def __init__(self, path: Path, content: Content, start: int, text_column: str) -> None:
        self.path, self._content, self._text_column = path, content, text_column
        self._spans: list[tuple[int, int]] = []
        while start < len(content):
            end = content.find(b"\n", start)
            end = len(content) if end < 0 else end
            if end - start > 2 or content[start:end].strip():  # A blank line is no document.
                self._spans.append((start, end))
            start = end + 1

    def __len__(self) -> int:
        return len(self._spans)

    def value(self, index: int) -> Any:
        start, end = self._spans[index]
        line, where = self._content[start:end], self.place(index)
        if b"\0" in line:
            raise RequestError(f"{where}: has a NUL byte, which JSON has not; remove it, or get the file again")
        try:
            row = parse_json(decode(line, self.path, f"document {index + 1}, "))
        except ValueError as error:
            reason = getattr(error, "msg", error)
            raise RequestError(
                f"{where} cannot be read as JSON ({reason}); each line must be one JSON object, or the file one array"
            ) from error
        return _text_of(row, self._text_column, where)


def _text_of(row: Any, text_column: str, where: str) -> Any:
    if not isinstance(row, dict) or text_column not in row:
        has = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
        raise RequestError(f"{where} has no text in '{text_column}' (it has: {has}); set text_column")
    return row[text_column]


class ArrowColumn(OfFile):
    """Rows of a column, turned into strings when asked for: of a file that is mapped, only those are read.

    Args:
        path: named in errors.
        column: the text.

    Raises:
        RequestError: naming the file, if its texts expand too much.
    """

    def __init__(self, path: Path, column: "pyarrow.ChunkedArray") -> None:
        from pyarrow import types

        self.path, self._column = path, column
        values = column.type.value_type if types.is_dictionary(column.type) else column.type
        is_text = types.is_string(values) or types.is_large_string(values) or types.is_string_view(values)
        if is_text and decoded_bytes(column) > most_expanded(path):
            raise RequestError(expands_too_much(path, UNPACKED))

    def __len__(self) -> int:
        return len(self._column)

    def value(self, index: int) -> Any:
        return self._column[index].as_py()
