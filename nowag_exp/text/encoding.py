"""Bytes of text files, packed or not: UTF-8, whose byte-order mark is no text."""

import codecs
import gzip
import mmap
import zlib
from pathlib import Path, PurePath
from typing import Any

from nowag_exp.errors import RequestError
from nowag_exp.files import expanded
from nowag_exp.text.tabular import UNPACKED

MARK = codecs.BOM_UTF8
PACKINGS = (".gz", ".zst")
OTHER_MARKS = (  # UTF-32's first: UTF-16's little-endian one opens it.
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
HEAD = 1024
"""Bytes by which an encoding is told."""

Content = bytes | mmap.mmap


def read_content(path: Path) -> Content:
    """What a text file holds, unpacked if its name ends in .gz or .zst.

    Raises:
        RequestError: naming it, if it is damaged, expands too much, or is UTF-16 or UTF-32.
        OSError: if there is none.
    """
    content = _unpacked(path)
    head = content[:HEAD]
    if encoding := _other_encoding(head):
        raise RequestError(f"{path}: is {encoding}, not UTF-8; {_convert(path, encoding)}")
    return content


def text_start(content: Content) -> int:
    """Where the text starts: behind the byte-order mark, if there is one."""
    return len(MARK) if content[: len(MARK)] == MARK else 0


def decode(content: bytes, path: Path, where: str = "") -> str:
    """Decode UTF-8.

    Args:
        content: the bytes.
        path: where they are from.
        where: in it, for messages.

    Raises:
        RequestError: if they are none.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path}: is not UTF-8 text ({where}byte {error.start} is 0x{content[error.start]:02x}); "
            f"{_convert(path, 'ENCODING')} (ENCODING: the one it was saved in, which cannot be told from it)"
        ) from error


def _unpacked(path: Path) -> Content:
    match path.suffix.lower():
        case ".gz":
            try:
                with gzip.open(path) as file:
                    return b"".join(expanded(file, path, UNPACKED))
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise RequestError(f"{path}: is not a whole gzip file ({error}); get it again") from error
        case ".zst":
            return _unpack_zstd(path)
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return b""  # Nothing can be mapped.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _unpack_zstd(path: Path) -> bytes:
    import pyarrow

    with path.open("rb") as packed:
        try:
            stream: Any = pyarrow.CompressedInputStream(packed, "zstd")
            return b"".join(expanded(stream, path, UNPACKED))
        except OSError as error:
            if error.errno:
                raise
            raise RequestError(f"{path}: is not a whole zstd file ({error}); get it again") from error


def _other_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by its mark or by the NULs that letters of ASCII have in it."""
    for mark, encoding in OTHER_MARKS:
        if head.startswith(mark):
            return encoding
    # A mark that became letters: no conversion of the file itself mends that.
    if len(head) < 8 or b"\0" not in head or head.startswith(("ÿþ".encode(), "þÿ".encode())):
        return None
    head = head[: len(head) // 4 * 4]
    of_four = [head[i::4].count(0) * 4 / len(head) for i in range(4)]
    even, odd = (of_four[0] + of_four[2]) / 2, (of_four[1] + of_four[3]) / 2
    if min(of_four[2:]) == 1 and of_four[0] == 0:
        return "UTF-32LE"
    if min(of_four[:2]) == 1 and of_four[3] == 0:
        return "UTF-32BE"
    if odd > 0.5 and even == 0:
        return "UTF-16LE"
    if even > 0.5 and odd == 0:
        return "UTF-16BE"
    return None


def _convert(path: Path, encoding: str) -> str:
    packing = path.suffix.lower() if path.suffix.lower() in PACKINGS else ""
    name = PurePath(path.name).stem if packing else path.name
    unpack = "" if not packing else "unpack it, then "
    return f"{unpack}convert it: iconv -f {encoding} -t UTF-8 {name} > utf8-{name}"
