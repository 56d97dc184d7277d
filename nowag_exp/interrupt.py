"""Ctrl-C and SIGTERM: the first asks to stop after the current block, the second stops at once."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_requested = threading.Event()


def requested() -> bool:
    """Whether somebody asked to stop."""
    return _requested.is_set()


def request() -> None:
    """Ask to stop at the next :func:`check`."""
    _requested.set()


def check() -> None:
    """Stop here if that was asked for; called where everything before is kept.

    Raises:
        KeyboardInterrupt: if so.
    """
    if requested():
        raise KeyboardInterrupt


@contextmanager
def graceful(signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> Iterator[None]:
    """While the body runs, the first signal only asks; does nothing outside the main thread, which gets no signals.

    Not to be nested: the request is forgotten at the end.

    Args:
        signals: that ask. A terminal sends SIGINT; Ray and others end a job by SIGTERM.

    Raises:
        KeyboardInterrupt: at the end of the body, if it was asked to stop and had no step left to do so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _ask) for number in signals}
    try:
        yield
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requested.clear()


def _ask(number: int, frame: FrameType | None) -> None:
    if requested():
        raise KeyboardInterrupt
    request()
    print("stopping after the current block; once more stops at once", file=sys.stderr)
