"""What a person sees while work goes on: bars in a terminal, one plain line a job elsewhere. All of it on stderr."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from nowag_exp import interrupt


@runtime_checkable
class Tick(Protocol):
    """Called after a step of a stage."""

    def __call__(self, step: int | None = None, known: bool = False) -> None:
        """Count one step.

        Args:
            step: its number, if steps end in another order than they began.
            known: whether it was done before this run.
        """


Stage = Callable[[str, int], AbstractContextManager[Tick]]
"""Opens a bar for a stage of so many steps, :meth:`Reporter.stage`."""

LOG_EVERY = 10.0
"""Seconds between two lines of a stage in the log, which tell how far a job came that was killed."""

SILENCE = 2.0
"""Seconds after which work that has no bar is named."""

log = logging.getLogger("nowag_exp")
_console = Console(stderr=True, highlight=False)


def silence() -> None:
    """Print no progress from now on, only results and errors."""
    _console.quiet = True


def note(line: str) -> None:
    """Say what takes long and happens once, such as a download."""
    _console.print(line, markup=False, soft_wrap=True)


@contextmanager
def noted_if_long(line: str) -> Iterator[None]:
    """Say what the body does, once it has taken :data:`SILENCE` seconds: most often it is done at once."""
    timer = threading.Timer(SILENCE, note, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Remaining(ProgressColumn):
    """Time left at the mean pace so far; counted down between ticks, which may be minutes apart.

    Steps that were done before this run are no part of the pace.
    """

    def render(self, task: Task) -> Text:
        """``0:12:30``, or dashes before the first tick; empty where nobody knows how much there is to do."""
        if task.total is None:
            return Text("")
        elapsed, last, done = task.elapsed or 0.0, task.fields["last_tick"], task.completed - task.fields["known"]
        if not task.total or not done or not last:
            return Text("-:--:--", style="progress.remaining")
        left = (task.total - task.completed) * last / done - (elapsed - last)
        return Text(str(timedelta(seconds=max(0, int(left)))), style="progress.remaining")


class Reporter:
    """Bars for jobs and for the stages of a job."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            Remaining(),
            console=_console,
            disable=not _console.is_terminal or _console.quiet,
        )

    @property
    def draws(self) -> bool:
        """Whether there are bars: on a terminal, unless silenced."""
        return not self._bars.disable

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bars while the body runs."""
        with self._bars:
            yield

    @contextmanager
    def stage(self, description: str, total: int, weights: Sequence[float] | None = None) -> Iterator[Tick]:
        """A bar for one stage; the body calls the tick after each step.

        The tick stops the program where everything before it is kept, if somebody asked for that.

        Args:
            description: of the stage and its steps, ``calibration: blocks``.
            total: number of steps.
            weights: how long each step takes compared with the others, for the time left; ``None`` for all alike.
        """
        steps = weights if weights is not None and sum(weights) > 0 else None
        whole = total if steps is None else sum(steps)
        task = self._bars.add_task(description, total=whole, count=f"0/{total}", last_tick=0.0, known=0.0)
        log.info("%s: 0 of %d", description, total)
        done, taken_over, started = 0, 0.0, time.monotonic()
        logged = started

        def tick(step: int | None = None, known: bool = False) -> None:
            nonlocal done, taken_over, logged
            weight = 1.0 if steps is None else steps[done if step is None else step]
            done, now = done + 1, time.monotonic()
            taken_over += weight if known else 0.0
            count, last = f"{done}/{total}", now - started
            self._bars.update(task, advance=weight, count=count, last_tick=last, known=taken_over)
            if now - logged >= LOG_EVERY:
                log.info("%s: %d of %d", description, done, total)
                logged = now
            interrupt.check()

        try:
            yield tick
        finally:
            self._bars.remove_task(task)

    @contextmanager
    def job(self, description: str) -> Iterator[None]:
        """A line above the stages of one job while the body runs: which one it is, and for how long."""
        task = self._bars.add_task(description, total=None, count="")
        try:
            yield
        finally:
            self._bars.remove_task(task)

    def say(self, line: str) -> None:
        """Print one line, above the bars."""
        _console.print(line, markup=False, soft_wrap=True)
