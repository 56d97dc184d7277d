"""Killing a command at a moment of its choice, and running it again."""

import re
import signal
from collections.abc import Callable
from functools import partial

from tests.faults.trial import Trial, Whole

Judge = Callable[..., None]
NewTrial = Callable[[], Trial]

CHANGES = {
    "os.rename": "rename",
    "os.remove": "removal",
    "os.mkdir": "new folder",
    "os.rmdir": "removal",
    "open": "write",
}


def first_changes(whole: Whole) -> list[tuple[int, str]]:
    """The first of each kind of change of a file, and where it is: what comes later differs in the job alone."""
    kinds: dict[str, int] = {}
    for number, change in enumerate(whole.changes):
        kinds.setdefault(re.sub(r"[0-9a-f]{16}|\d+@\S+|\w{8}(?=\.tmp)|(?<=\.wheel\.)\w{8}|\d+", "*", change), number)
    found = []
    for kind, number in kinds.items():
        what, _, path = kind.partition(" ")
        found.append((number, f"{CHANGES[what]} in {'/'.join(path.split('/')[:2])}"))
    return found


def kill_at(
    trial: Trial, judge: Judge, counting: Callable[..., None], number: int, moment: str, fault: str, *overrides: str
) -> None:
    """Kill a command at a moment, run it again, and hold it against the one left alone."""
    sabotage = partial(counting, trial.folder / "moments.txt", number)
    ended = trial.run(*overrides, sabotage=sabotage)
    assert ended.code == -signal.SIGKILL, ended.said
    finished = trial.finished()
    trial.finish(*overrides)
    judge(trial, fault, moment, "continues", finished)
