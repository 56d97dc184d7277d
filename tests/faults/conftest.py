"""What trials need, and the table of them at the end."""

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tabulate import tabulate

from tests.faults.child import PRELOADED, at_boundaries, at_changes
from tests.faults.trial import KEEP_ALL, KEEP_LITTLE, Trial, Whole, new_trial_in, note


@pytest.fixture(scope="session")
def processes() -> Any:
    """Starts trials."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


@pytest.fixture
def new_trial(tmp_path: Path, processes: Any) -> Iterator[Callable[[], Trial]]:
    """Makes an empty one; the one before is removed."""
    folder = tmp_path / "trial"

    def _new_trial() -> Trial:
        shutil.rmtree(folder, ignore_errors=True)
        return new_trial_in(folder, processes)

    yield _new_trial
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def trial(new_trial: Callable[[], Trial]) -> Trial:
    """An empty one."""
    return new_trial()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, processes: Any) -> Whole:
    """Run the sweep without a fault, once to count its moments, once for its time."""
    folder = tmp_path_factory.mktemp("whole")
    found: dict[str, list[str]] = {}
    for name, count in (("boundaries", at_boundaries), ("changes", at_changes)):
        counted = new_trial_in(folder / name, processes)
        ended = counted.run(KEEP_ALL, sabotage=partial(count, folder / f"{name}.txt", None))
        assert ended.code == 0, ended.said
        found[name] = (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    plain = new_trial_in(folder / "plain", processes)
    started = time.monotonic()
    ended = plain.run(KEEP_LITTLE)
    seconds = time.monotonic() - started
    assert ended.code == 0, ended.said
    assert plain.state() == counted.state(), "what is kept on the way changes nothing"
    n_bytes = sum(path.stat().st_blocks * 512 for path in plain.results.rglob("*"))
    return Whole(plain.state(), seconds, n_bytes, found["boundaries"], found["changes"])


@pytest.fixture
def judge(whole: Whole, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Holds a trial that has ended against the whole sweep, and writes down how it ended."""

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
