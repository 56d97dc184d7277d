"""Whole processes: their wall time, processor time and peak resident memory, as the operating system counts them."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nowag_exp.errors import NowagError

COMMAND = (sys.executable, "-m", "nowag_exp")
"""``nowag-exp`` of the interpreter that runs this."""


WATCHER = Path(__file__).with_name("child_run.py")


class Cost(NamedTuple):
    """Of one process.

    Attributes:
        seconds: from its start to its end.
        processor_seconds: of all its threads.
        peak_bytes: of resident memory; pages of files that it maps count while they are in memory.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int


def run_child(command: Sequence[str], folder: Path | None = None) -> Cost:
    """Run a command to its end, in a folder, without showing what it prints.

    Raises:
        NowagError: with the last line it printed, if it fails.
    """
    with tempfile.TemporaryFile() as output, tempfile.NamedTemporaryFile("r", encoding="ascii") as report:
        watched = (sys.executable, "-SP", str(WATCHER), report.name, *command)
        done = subprocess.run(watched, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, check=False)
        if done.returncode:
            output.seek(0)
            printed = output.read().decode(errors="replace").strip().splitlines()
            shown = " ".join(command[: len(COMMAND) + 1] if tuple(command[:3]) == COMMAND else command[:2])
            raise NowagError(f"{shown}: ended with {done.returncode}: {printed[-1] if printed else 'it said nothing'}")
        seconds, processor_seconds, peak = map(float, report.read().split())
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, processor_seconds, int(peak) * unit)
