"""What a person sees while work goes on: bars in a terminal, one plain line a job elsewhere. All of it on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Tick = Callable[[], None]


def note(line: str) -> None:
    """Say what takes long and happens once, such as a download."""
    Console(stderr=True, highlight=False).print(line, markup=False, soft_wrap=True)


class Reporter:
    """Bars for jobs and for the stages of a job."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bars while the body runs."""
        with self._bars:
            yield

    @contextmanager
    def stage(self, description: str, total: int) -> Iterator[Tick]:
        """A bar for one stage; the body calls the tick after each step."""
        task = self._bars.add_task(description, total=total)
        try:
            yield lambda: self._bars.advance(task)
        finally:
            self._bars.remove_task(task)

    def say(self, line: str) -> None:
        """Print one line, above the bars."""
        self.console.print(line, markup=False, soft_wrap=True)
