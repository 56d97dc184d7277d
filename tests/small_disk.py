"""A disk so small that it fills up."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Make an empty folder a disk of its own, of 64 kB until :func:`remount` gives it another size.

    Mounting one takes a privilege that few have. Without it nothing is left unproved: a limit on the size of files
    makes the same writes fail on any machine (``tests/test_disk_full.py``); a real disk shows besides that the error's
    number and the free bytes are the system's.
    """
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk; tests/test_disk_full.py makes the same writes fail elsewhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(disk: Path, how: str) -> None:
    """Change it: ``size=BYTES``, ``ro`` or ``rw``."""
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)
