"""What a document may hold, decided in one place for every file that texts and items are read from."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, overload

from nowag_exp.errors import RequestError

NUL = "\0"


def require_text(value: Any, where: str) -> str:
    """Return ``value`` if it is text that means itself.

    Args:
        value: what a file holds as the text of a document.
        where: file and document, for messages.

    Raises:
        RequestError: if it is null or no text, or has a NUL character or half a surrogate pair.
    """
    if value is None:
        raise RequestError(f"{where}: its text is null; leave the document out, or give it a text")
    if not isinstance(value, str):
        raise RequestError(f"{where}: its text is {type(value).__name__}, not a string; set text_column")
    if (at := value.find(NUL)) >= 0:
        if 3 * value.count(NUL) > len(value):
            raise RequestError(
                f"{where}: a third of its characters or more are NUL, as when UTF-16 or UTF-32 is read as something "
                "else; make the file again from the original, read as that"
            )
        raise RequestError(f"{where}: has a NUL character (character {at + 1}), which is no text; remove it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{where}: has half a surrogate pair (character {error.start + 1}, U+{ord(value[error.start]):04X}), which "
            "is no text; write the whole character, or U+FFFD for one that is lost"
        ) from error
    return value


def require_texts(value: Any, where: str) -> None:
    """Check all texts in what JSON may hold, also below lists and objects, as :func:`require_text`; nulls may be there.

    Raises:
        RequestError: as :func:`require_text`.
    """
    if isinstance(value, str):
        require_text(value, where)
    elif isinstance(value, dict):
        for name, inner in value.items():
            require_texts(name, where)
            require_texts(inner, where)
    elif isinstance(value, list | tuple):
        for inner in value:
            require_texts(inner, where)


class Documents(Sequence[str]):
    """Documents in order, each read and checked when it is asked for: a draw needs few of the millions there may be.

    Attributes:
        marked: names of the files whose byte-order mark was left out.
    """

    marked: tuple[str, ...] = ()

    @abstractmethod
    def place(self, index: int) -> str:
        """File and number of a document, for messages."""

    @abstractmethod
    def value(self, index: int) -> Any:
        """What stands for the text of a document in its file."""

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "Documents": ...

    def __getitem__(self, index: int | slice) -> "str | Documents":
        if isinstance(index, slice):
            return Picked(self, range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return require_text(self.value(index), self.place(index))


class Picked(Documents):
    """Some of other documents, without reading them."""

    def __init__(self, documents: Documents, picked: range) -> None:
        self._documents, self._picked, self.marked = documents, picked, documents.marked

    def __len__(self) -> int:
        return len(self._picked)

    def place(self, index: int) -> str:
        return self._documents.place(self._picked[index])

    def value(self, index: int) -> Any:
        return self._documents.value(self._picked[index])


class Chained(Documents):
    """Several lists of documents as one, without reading them."""

    def __init__(self, parts: Sequence[Documents]) -> None:
        self._parts = parts
        self.marked = tuple(name for part in parts for name in part.marked)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def place(self, index: int) -> str:
        part, within = self._find(index)
        return part.place(within)

    def value(self, index: int) -> Any:
        part, within = self._find(index)
        return part.value(within)

    def _find(self, index: int) -> tuple[Documents, int]:
        for part in self._parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)
