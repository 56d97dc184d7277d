"""The command in a process that can be killed: forked from one that has imported everything, so a trial takes seconds.

What is done to it happens inside of it, at a moment that is counted, so that each moment can be tried: a stage begins
or ends, or a file or folder under the working directory is about to be made, renamed or removed.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PRELOADED = (
    "nowag_exp.execution",
    "nowag_exp.search",
    "nowag_exp.records.wide",
    "transformers.models.llama.modeling_llama",
    "torch.utils.tensorboard",
    "lm_eval.api.model",
    "tests.faults.child",
)
"""What each trial would import otherwise."""

Sabotage = Callable[[], None]
"""Called in the child before the command."""


def body(arguments: list[str], folder: str, output: str, sabotage: Sabotage | None) -> None:
    """Run the command in a folder, with what it says in a file; the process exits with its code."""
    os.setsid()  # Ctrl-C in the terminal of the tests is not for it.
    os.chdir(folder)
    os.environ["NOWAG_EXP_CACHE"] = str(Path(folder) / "cache")
    os.environ.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(Path(folder) / "index"))  # Instead of PyPI.
    said = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    from nowag_exp.cli import main

    sweeps_of(Path(folder))
    if sabotage:
        sabotage()
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def sweeps_of(folder: Path) -> None:
    """Let the command find the sweeps of a folder instead of the package's."""
    from nowag_exp import layout, sweep

    def where(name: str, plain: Callable[[str], Path] = layout.folder) -> Path:
        return folder / name if name == "sweeps" else plain(name)

    layout.folder = sweep.folder = where


class Moments:
    """Counts moments, writes each down, and does something at one of them.

    Args:
        file: gets the name of each, a line each.
        number: of the moment at which ``act`` is called, from 0; ``None`` to count alone.
        act: what to do; by default nothing but the kernel hears of it.
    """

    def __init__(self, file: Path, number: int | None, act: Callable[[], None] | None = None) -> None:
        self.number, self.act, self.count = number, act or kill, 0
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def __call__(self, name: str) -> None:
        os.write(self._file, f"{name}\n".encode())
        self.count += 1
        if self.count - 1 == self.number:
            self.act()


def kill() -> None:
    """As the kernel does it when memory runs out: nothing of the process runs after this."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_boundaries(file: Path, number: int | None, act: Callable[[], None] | None = None) -> None:
    """Moments are the beginnings and ends of all stages."""
    from nowag_exp.progress import Reporter
    from nowag_exp.records.provenance import CostMeter

    moment = Moments(file, number, act)

    def bounded(plain: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def stage(self: Any, name: str, *others: Any) -> Iterator[Any]:
            moment(f"{name}: begins")
            with plain(self, name, *others) as given:
                yield given
            moment(f"{name}: ends")

        return stage

    for owner in (Reporter, CostMeter):
        owner.stage = bounded(owner.stage)  # type: ignore[method-assign]
    Reporter.job = bounded(Reporter.job)  # type: ignore[method-assign]


def at_changes(file: Path, number: int | None, act: Callable[[], None] | None = None) -> None:
    """Moments are just before anything under the working directory is made, renamed or removed."""
    moment, top = Moments(file, number, act), f"{Path.cwd()}{os.sep}"
    changing = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "open": 0}

    def hear(event: str, details: tuple[Any, ...]) -> None:
        if event not in changing:
            return
        path = details[changing[event]]
        if not isinstance(path, str | bytes | os.PathLike):
            return  # A file that is open already.
        if event == "open" and not (details[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        path = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if path.startswith(top) and not path.endswith((".lock", ".log")):
            moment(f"{event} {path.removeprefix(top)}")

    sys.addaudithook(hear)


def once_kept(pattern: str) -> None:
    """Killed at the next write after a file of this pattern is there."""
    top = Path.cwd()

    def look(event: str, details: tuple[Any, ...]) -> None:
        if event == "os.mkdir" and any(top.glob(pattern)):  # Each file is written in a folder of its own.
            kill()

    sys.addaudithook(look)


def clock_set_back(file: Path, number: int | None) -> None:
    """A day is taken off the clock at a boundary between stages."""
    import time

    plain = time.time

    def set_back() -> None:
        time.time = lambda: plain() - 86_400

    at_boundaries(file, number, set_back)


def tracker_fails() -> None:
    """The tracker refuses every record."""

    def refuse(*arguments: object) -> None:
        raise ConnectionError("ConnectionError: refused")

    _instead_of_sending(refuse)


def tracker_hangs() -> None:
    """The tracker never ends."""
    import threading

    _instead_of_sending(lambda *arguments: threading.Event().wait())


def _instead_of_sending(act: Callable[..., Any]) -> None:
    from nowag_exp.tracking.tensorboard import TensorBoardTracking

    TensorBoardTracking.send = act  # type: ignore[method-assign]
    TensorBoardTracking.timeout = 0.2


def memory_ends() -> None:
    """SparseGPT finds no memory."""
    import torch

    from nowag_exp.methods import SparseGPT

    def compress(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    SparseGPT.compress = compress  # type: ignore[method-assign,assignment]
