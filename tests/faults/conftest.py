"""What trials need, and the table of them at the end."""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tabulate import tabulate

from tests.faults.child import PRELOADED
from tests.faults.trial import Trial, Whole, note, run_whole


@pytest.fixture(scope="session")
def processes() -> Any:
    """Starts trials."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


@pytest.fixture(scope="session")
def trial_in(processes: Any) -> Callable[[Path], Trial]:
    """Makes an empty trial of the sweep in a folder."""
    return partial(Trial, context=processes)


@pytest.fixture
def new_trial(tmp_path: Path, trial_in: Callable[[Path], Trial]) -> Iterator[Callable[[], Trial]]:
    """Makes an empty one; the one before is removed."""
    folder = tmp_path / "trial"

    def _new_trial() -> Trial:
        shutil.rmtree(folder, ignore_errors=True)
        return trial_in(folder)

    yield _new_trial
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def trial(new_trial: Callable[[], Trial]) -> Trial:
    """An empty one."""
    return new_trial()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, trial_in: Callable[[Path], Trial]) -> Whole:
    """The sweep without a fault."""
    return run_whole(tmp_path_factory.mktemp("whole"), trial_in)


@pytest.fixture
def judge(whole: Whole, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Holds a trial that has ended against the whole run, and writes down how it ended."""

    def _judge(
        trial: Trial, fault: str, moment: str, outcome: str, finished: dict[str, tuple[int, int]] | None = None
    ) -> None:
        problems = trial.compare(whole, finished or {})
        note(record_property, fault, moment, outcome, sum(map(len, problems.values())))
        assert not any(problems.values()), problems
        assert not trial.held_locks()

    return _judge


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table: fault, moment, times tried, outcome, lost."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties if report.when == "call" else []:
            if name == "fault":
                fault, moment, outcome, lost = json.loads(value)
                row = rows.setdefault((fault, moment, outcome), [0, 0])
                row[0], row[1] = row[0] + 1, row[1] + lost
    if rows:
        table = [
            [fault, moment, tried, outcome, lost] for (fault, moment, outcome), (tried, lost) in sorted(rows.items())
        ]
        terminalreporter.write_line("")
        terminalreporter.write_line(tabulate(table, ["fault", "moment", "tried", "outcome", "lost"], "github"))
