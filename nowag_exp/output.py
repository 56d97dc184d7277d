"""Writing tables and pages to files the user named."""

from pathlib import Path

from nowag_exp.errors import RequestError


def extension(form: str) -> str:
    """Of a file with a table in this form."""
    return "txt" if form == "text" else form


def write(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        RequestError: if that cannot be done there.
        DiskFullError: if there is no room.
    """
    from nowag_exp.files import atomic_write

    data = content.encode() if isinstance(content, str) else content
    try:
        with atomic_write(path, len(data)) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
