"""Bars, the time left that they tell, and what a log keeps of them."""

import io
import logging
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from nowag_exp import interrupt, progress
from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.execution import Inline, run_all
from nowag_exp.experiment import Workbench
from nowag_exp.progress import Remaining, Reporter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that stands still until it is set."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def left(elapsed: float, last_tick: float, completed: float, total: float, known: float = 0) -> str:
    fields = {"last_tick": last_tick, "known": known}
    task = SimpleNamespace(elapsed=elapsed, total=total, completed=completed, fields=fields)
    return Remaining().render(task).plain


def test_time_left_is_the_mean_pace_and_goes_down_between_ticks() -> None:
    assert left(0, 0, 0, 10) == "-:--:--", "nothing is known before the first step"
    assert left(60, 60, 2, 10) == "0:04:00"
    assert left(90, 60, 2, 10) == "0:03:30"
    assert left(1000, 60, 2, 10) == "0:00:00", "late, but never less than nothing"
    assert left(0.1, 0.1, 20, 32, known=20) == "-:--:--", "what an interrupted run did says nothing about the pace"
    assert left(2, 2, 21, 32, known=20) == "0:00:22"


def test_a_long_job_counts_for_more_than_a_short_one(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    monkeypatch.setattr(progress, "_console", Console(file=io.StringIO(), force_terminal=True))
    reporter = Reporter()
    with reporter.stage("jobs", 3, weights=[1.0, 8.0, 1.0]) as tick:
        clock.seconds += 5
        tick(2)
        (task,) = reporter._bars.tasks
        assert (task.completed, task.total, task.fields["count"]) == (1.0, 10.0, "1/3")
        clock.seconds += 40
        tick(1)
        assert (task.completed, task.fields["count"], task.fields["last_tick"]) == (9.0, "2/3", 45.0)


def test_a_terminal_shows_the_sweep_the_job_and_the_block_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, workplace: Path, tiny_run: list[str]
) -> None:
    jobs = [build_experiment(compose([*tiny_run, f"method={name}"])) for name in ("magnitude", "wanda")]
    for terminal in (True, False):
        shown = io.StringIO()
        monkeypatch.setattr(progress, "_console", Console(file=shown, force_terminal=terminal, width=120))
        run_all(jobs, Workbench(), Reporter(), executor=Inline(name="inline"))
        frames = [frame for frame in shown.getvalue().split("experiments") if "wanda: blocks" in frame]
        if terminal:
            assert frames
            assert all(frame.index("tiny wanda 50%") < frame.index("wanda: blocks") for frame in frames)
        else:
            assert frames == []
            assert shown.getvalue().count("\n") == len(jobs), "one line a job that has ended"
        shutil.rmtree(workplace / "results")


def test_the_log_says_how_far_a_stage_came_but_not_each_step(
    caplog: pytest.LogCaptureFixture, clock: SimpleNamespace
) -> None:
    with caplog.at_level(logging.INFO, "nowag_exp"), Reporter().stage("calibration: blocks", 30) as tick:
        for _ in range(30):
            clock.seconds += 4
            tick()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:3] == ["calibration: blocks: 0 of 30", "calibration: blocks: 3 of 30", "calibration: blocks: 6 of 30"]
    assert len(lines) == 11


def test_a_step_is_where_one_stops_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "requested", lambda: True)
    with Reporter().stage("blocks", 2) as tick, pytest.raises(KeyboardInterrupt):
        tick()


@pytest.mark.parametrize(("seconds", "said"), [(0.0, True), (60.0, False)])
def test_reading_of_a_text_is_named_only_if_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, seconds: float, said: bool
) -> None:
    lines: list[str] = []
    named = threading.Event()
    monkeypatch.setattr(progress, "SILENCE", seconds)
    monkeypatch.setattr(progress, "note", lambda line: (lines.append(line), named.set()))
    with progress.noted_if_long("calibration: reading"):
        assert not said or named.wait(timeout=30)
    assert lines == ["calibration: reading"] * said
