"""What the tests share that hand over files which were made to harm."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

GENEROUS = 3_000_000_000
"""Bytes of addresses that a refusal may take beside what the process has; the models here take 1 MB."""


@contextmanager
def _bounded() -> Iterator[None]:
    import resource  # Not there on Windows.

    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + GENEROUS, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


@pytest.fixture
def bounded() -> Callable[[], AbstractContextManager[None]]:
    """The operating system refuses more memory than is stated, if it is Linux; for tests of messages."""
    return _bounded if sys.platform == "linux" else nullcontext


@pytest.fixture
def little_memory() -> Callable[[], AbstractContextManager[None]]:
    """The operating system refuses more memory than is stated; for tests that are of no use without it."""
    # Without a bound such a file would fill the machine before the test could fail; the code is the same everywhere.
    if sys.platform != "linux":
        pytest.skip("only Linux holds the addresses of a process to a bound")
    return _bounded
