"""Ctrl-C and SIGTERM: the first asks to stop after the current block, the second stops at once."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_requested = threading.Event()
_pressed = threading.Event()


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


@contextmanager
def noticed() -> Iterator[None]:
    """Let an error that Ctrl-C led to be an interruption, whatever a library made of it.

    A KeyboardInterrupt in the middle of OmegaConf can come out as an AttributeError. Does nothing outside the main
    thread, and where Ctrl-C has a handler of somebody's own.

    Raises:
        KeyboardInterrupt: instead of an error after Ctrl-C.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if in_main:
        _pressed.clear()  # Of a body before this one; also where this one hears no Ctrl-C.
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    except Exception as error:
        if pressed():
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pressed() -> bool:
    """Whether Ctrl-C ended something in the body of :func:`noticed`; an error may then be its consequence."""
    return _pressed.is_set()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    raise KeyboardInterrupt


def _ask(number: int, frame: FrameType | None) -> None:
    if requested():
        raise KeyboardInterrupt
    request()
    print("stopping after the current block; once more stops at once", file=sys.stderr)
