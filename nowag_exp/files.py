"""Files that are either whole or absent: hashing, atomic writes, the user's cache folder."""

import errno
import functools
import glob
import hashlib
import io
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import platformdirs
from filelock import FileLock, Timeout

from nowag_exp import interrupt
from nowag_exp.errors import NowagError, RequestError
from nowag_exp.progress import note

CACHE_VARIABLE = "NOWAG_EXP_CACHE"

PATIENCE = 2.0
"""Seconds that a lock is waited for in silence."""

MOST_EXPANDED, LEAST_BOUND = 50, 100_000_000
"""How many times its size a compressed file may take unpacked (C4 takes 3 times its own), whatever it expands to; and
the bytes that any may take."""

PIECE = 2**20

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""How the operating system says that there is no room: on the disk, in a quota, in a file of the largest size."""


class DiskFullError(NowagError):
    """There is no room for a file or folder; what was written of it is removed.

    Args:
        path: it.
        reason: the operating system's.
        n_bytes: that it needs, at least; ``None`` if unknown.
    """

    def __init__(self, path: Path, reason: str, n_bytes: int | None) -> None:
        self.path, self.reason, self.n_bytes = path, reason, n_bytes
        needs = "" if n_bytes is None else f"it needs {_megabytes(n_bytes)}, "
        super().__init__(
            f"{path}: {reason}: {needs}{_megabytes(_free(path))} are free; make room, or set paths.results=DIR (for "
            f"results) or {CACHE_VARIABLE}=DIR (for downloads) to a folder on another disk, and run the same command "
            "again: what was kept before is whole, and is taken over"
        )


@contextmanager
def naming_full_disk(path: Path, n_bytes: int | None = None) -> Iterator[None]:
    """Let the body fail with a sentence if it writes ``path`` and finds no room.

    Args:
        path: file or folder; what was written of it is removed by the time the body ends.
        n_bytes: that it needs, if that is known.

    Raises:
        DiskFullError: naming ``path``, unless the body named another one.
    """
    try:
        yield
    except Exception as error:
        if (number := _system_error(error)) in FULL:
            raise DiskFullError(path, os.strerror(number), n_bytes) from error
        raise


def require_room(path: Path, n_bytes: int) -> None:
    """Check that there is room for ``path``, as far as can be told before it is written.

    Raises:
        DiskFullError: if there is none.
    """
    if _free(path) < n_bytes:
        raise DiskFullError(path, os.strerror(errno.ENOSPC), n_bytes)


def _system_error(error: Exception) -> int:
    """The operating system's number of an error, also of one that Rust reports in words; 0 if it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else 0


def _free(path: Path) -> int:
    there = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(there).free


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.2f} MB"


def cache_dir() -> Path:
    """The folder for downloads and converted models; ``NOWAG_EXP_CACHE`` moves it."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("nowag_exp"))


def as_name(text: str) -> str:
    """Text as the name of one file or folder: what leads elsewhere or is special to a shell becomes ``_``."""
    return re.sub(r"^[.-]|[^\w.+=@-]", "_", text)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content; an unchanged file is read once a process."""
    state = path.stat()
    return _sha256_of_state(path.resolve(), state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_of_state(path: Path, size: int, modified: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def most_expanded(path: Path) -> int:
    """Bytes that a compressed file may take unpacked."""
    return max(MOST_EXPANDED * path.stat().st_size, LEAST_BOUND)


def expanded(file: IO[bytes] | io.BufferedIOBase, path: Path, way_out: str) -> Iterator[bytes]:
    """What a compressed file holds, a piece at a time, whatever it says of its size.

    Args:
        file: reads it unpacked.
        path: of the compressed file.
        way_out: what to do with one that expands too much.

    Raises:
        RequestError: naming it, once it was more than :func:`most_expanded`.
    """
    most, n_bytes = most_expanded(path), 0
    while piece := file.read(PIECE):
        n_bytes += len(piece)
        if n_bytes > most:
            raise RequestError(expands_too_much(path, way_out))
        yield piece


def expands_too_much(path: Path, way_out: str) -> str:
    """The message about a file that is larger unpacked than :func:`most_expanded`."""
    return (
        f"{path}: expands to more than {most_expanded(path) / 1e6:,.0f} MB, {MOST_EXPANDED} times its size or more; "
        f"{way_out}"
    )


def parse_json(text: str | bytes) -> Any:
    """JSON that anybody may have written.

    Raises:
        ValueError: if it is none, has a key twice in one object, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds; nothing else is one.

    Raises:
        RequestError: naming the file, if it cannot be read or is none.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read as JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path}: must hold one JSON object; download it again")
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:100]!r} occurs twice in one object")
        found[name] = value
    return found


@contextmanager
def atomic_write(path: Path, n_bytes: int | None = None) -> Iterator[Path]:
    """Give a path to write to; rename the file there to ``path`` only if the body ends well.

    A reader sees the old file or the whole new one, also after a power cut (the file is fsynced before the rename).

    Args:
        path: of the file.
        n_bytes: that will be written, about, to say so if there is no room for them.

    Raises:
        DiskFullError: if there is none.
    """
    with naming_full_disk(path, n_bytes), _atomic_write(path) as temporary:
        yield temporary


@contextmanager
def _atomic_write(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_behind(path.parent, path.name)
    # A folder, as the writer may have a temporary file of its own beside the one it is given: safetensors does.
    prefix = f".{path.name}.{os.getpid()}@{_machine()}."
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=".tmp"))
    temporary = folder / path.name
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # safetensors makes private files; results are shared like any other file of the user's.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_behind(folder: Path, name: str = "*") -> None:
    """Remove what processes of this machine that are no more were writing in a folder.

    Args:
        folder: of the files.
        name: of the one that they were writing; by default any, also in folders below.
    """
    written = folder.rglob(".*.tmp") if name == "*" else folder.glob(f".{glob.escape(name)}.*.tmp")
    for left_behind in list(written):
        owner = re.fullmatch(r"\..+\.(\d+)@(.+)\.\w+\.tmp", left_behind.name)
        if owner and owner[2] == _machine() and not _is_running(int(owner[1])):
            shutil.rmtree(left_behind, ignore_errors=True)


@functools.cache
def _machine() -> str:
    """Where the number of a process means that process: containers of one machine may share its name."""
    try:
        numbers = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # There are no containers.
        return socket.gethostname()
    return f"{socket.gethostname()}-{numbers}"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # Somebody else's.
    return True


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside ``path``; rename it to ``path`` only if the body ends well.

    A folder that is there already is replaced, and removed only when the new one is whole. The caller holds the lock of
    ``path``, so folders that a killed process left behind are removed first.

    Raises:
        DiskFullError: if there is no room for it; it is removed.
    """
    with naming_full_disk(path):
        try:
            with _atomic_folder(path) as temporary:
                yield temporary
        except DiskFullError as error:
            if error.path != temporary:
                raise
            raise DiskFullError(path, error.reason, error.n_bytes) from error


@contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_behind in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        shutil.rmtree(left_behind)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~_umask())  # safetensors writes private files.
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        temporary.chmod(0o777 & ~_umask())
        replaced = temporary.with_suffix(".old.tmp")
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def made_once(path: Path, make: Callable[[Path], None], is_intact: Callable[[Path], bool]) -> None:
    """Have a folder that is made from what does not change: by the first who needs it, and again if it is damaged.

    Args:
        path: of the folder.
        make: fills an empty one.
        is_intact: whether one that is there is as it was made.

    Raises:
        RequestError: if it has to be made and nothing can be written there.
    """
    if path.exists() and is_intact(path):
        return  # Without the lock, which could not be written in a cache that somebody else fills.
    with locked(path):
        if path.exists() and not is_intact(path):
            note(f"{path} is damaged: making it again")
            shutil.rmtree(path)
        if not path.exists():
            with atomic_folder(path) as temporary:
                make(temporary)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the work that creates ``path``; says so if it has to wait for another process.

    The operating system frees the lock when its owner dies. Where the file system has no locks of that kind, filelock
    writes the owner's process and machine into a file, and takes it over from one that is no more.

    Raises:
        RequestError: if nothing can be written there.
        KeyboardInterrupt: if asked to stop while it waits.
    """
    lock = file_lock(path)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        note(f"waiting for another process, which is making {path.parent.name}/{path.name}")
        with suppress(Timeout):
            lock.acquire(cancel_check=interrupt.requested)
        if not lock.is_locked:
            raise KeyboardInterrupt from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of ``path``.

    Raises:
        RequestError: as :func:`locked`.
    """
    lock = file_lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def require_writable(path: Path) -> None:
    """Check that ``path`` can be made.

    Raises:
        RequestError: if it cannot.
    """
    file_lock(path)


def file_lock(path: Path) -> FileLock:
    """The lock of ``path``, not held yet, for those who cannot hold it by :func:`locked`.

    Raises:
        RequestError: if nothing can be written there.
    """
    locks = path.parent / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        if not os.access(locks, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise RequestError(
            f"{path.parent}: cannot be written to ({error.strerror}); set paths.results=DIR (for results) or "
            f"{CACHE_VARIABLE}=DIR (for downloads) to a folder that can"
        ) from error
    return FileLock(locks / f"{path.name}.lock")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
