"""Receipts, failures and what the command says of them."""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from nowag_exp.cli import main
from nowag_exp.execution import run_all
from nowag_exp.experiment import Workbench
from nowag_exp.ledger import Irregularity
from nowag_exp.progress import Reporter
from nowag_exp.records.record import RunRecord, load_record, load_records, record_path, save_record
from nowag_exp.tracking import NoTracking, TensorBoardTracking, Tracker, deliver, is_sent, send_saved


class FakeTracker(Tracker):
    """Notes what it is sent, and may fail."""

    name: ClassVar[str] = "fake"
    timeout = 60.0

    def __init__(self, error: Exception | None = None, place: str = "there") -> None:
        self.error = error
        self.place = place
        self.sent: list[tuple[RunRecord, str | None]] = []

    def check(self) -> None:
        pass

    def destination(self) -> str:
        return self.place

    def send(self, record: RunRecord, results: Path, group: str | None) -> None:
        if self.error:
            raise self.error
        self.sent.append((record, group))


class HangingTracker(FakeTracker):
    """Waits until the test ends."""

    timeout = 0.2

    def __init__(self, end: threading.Event) -> None:
        super().__init__()
        self.end = end

    def send(self, record: RunRecord, results: Path, group: str | None) -> None:
        self.end.wait(60)


@pytest.fixture
def hanging() -> Iterator[HangingTracker]:
    end = threading.Event()
    yield HangingTracker(end)
    end.set()


def test_what_has_arrived_is_not_sent_again(record: RunRecord, results: Path) -> None:
    tracker = FakeTracker()
    for _ in range(2):
        assert deliver(tracker, record, results, None) is None
    assert tracker.sent == [(record, None)]
    assert is_sent(tracker, record, results)


def test_another_destination_or_a_changed_record_is_sent(record: RunRecord, results: Path) -> None:
    tracker, elsewhere = FakeTracker(), FakeTracker(place="elsewhere")
    changed = replace(record, costs=replace(record.costs, started_at="2026-01-01T00:00:00+00:00"))
    deliver(tracker, record, results, None)
    deliver(elsewhere, record, results, None)
    assert [is_sent(place, record, results) for place in (tracker, elsewhere)] == [True, True]
    assert not is_sent(tracker, changed, results)
    deliver(tracker, changed, results, None)
    assert tracker.sent == [(record, None), (changed, None)]
    assert elsewhere.sent == [(record, None)]


def test_the_group_of_a_sweep_is_remembered_until_the_record_arrives(record: RunRecord, results: Path) -> None:
    assert deliver(FakeTracker(OSError("down")), record, results, "demo") == "OSError: down"
    tracker = FakeTracker()
    assert deliver(tracker, record, results, None) is None
    assert tracker.sent == [(record, "demo")]


def test_no_tracking_leaves_no_trace(record: RunRecord, results: Path) -> None:
    before = sorted(results.rglob("*"))
    tracker = NoTracking()
    tracker.check()
    assert send_saved(tracker, record, results, "demo") == (record, None)
    assert sorted(results.rglob("*")) == before


def test_a_failure_is_in_the_saved_record_and_goes_when_it_has_arrived(record: RunRecord, results: Path) -> None:
    path = record_path(results, record.fingerprint)
    original = path.read_bytes()
    for _ in range(2):
        after, failure = send_saved(FakeTracker(ValueError("no\nsuch run")), record, results, None)
        assert failure == "ValueError: no such run"
        entry = Irregularity("tracking_failed", "fake", "not sent, the log says why; nowag-exp track sends it", 1)
        assert after == replace(record, irregularities=[*record.irregularities, entry])
        assert load_record(path) == after
    tracker = FakeTracker()
    assert send_saved(tracker, after, results, None) == (record, None)
    assert path.read_bytes() == original
    assert tracker.sent == [(record, None)], "what is sent does not say that it was not"


def test_a_record_that_arrived_elsewhere_in_the_tracker_before_has_no_entry_either(
    record: RunRecord, results: Path
) -> None:
    offline, online = FakeTracker(), FakeTracker(OSError("down"), place="server")
    deliver(offline, record, results, None)
    failed, _ = send_saved(online, record, results, None)
    assert failed != record
    assert send_saved(offline, failed, results, None) == (record, None)
    assert not is_sent(online, record, results)
    assert len(offline.sent) == 1


def test_what_another_tracker_failed_at_stays_in_the_record(record: RunRecord, results: Path) -> None:
    entry = Irregularity("tracking_failed", "other", "not sent", 1)
    failed = replace(record, irregularities=[entry])
    assert send_saved(FakeTracker(), failed, results, None) == (failed, None)


def test_a_damaged_receipt_keeps_no_other_record_back(
    record: RunRecord, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_record(results, replace(record, fingerprint="z" * 16))
    receipt = results / "tracked/tensorboard" / f"{record.fingerprint}.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text("{", encoding="utf-8")
    assert main(["track", "tracking=tensorboard", f"paths.results={results}"]) == 1
    out = capsys.readouterr().out
    assert re.search(rf"{record.fingerprint} .*: failed, .*{receipt.name}", out)
    assert "tensorboard: 1 sent, 0 sent before, 1 failed" in out


def test_a_damaged_receipt_is_named_and_the_record_kept(record: RunRecord, results: Path) -> None:
    tracker = FakeTracker()
    deliver(tracker, record, results, None)
    path = results / "tracked" / "fake" / f"{record.fingerprint}.json"
    path.write_text("{")
    after, failure = send_saved(tracker, record, results, None)
    assert failure == f"{path}: is damaged; remove it, and the record is sent again"
    assert after.irregularities[-1].kind == "tracking_failed"


def test_an_error_of_the_tracker_that_says_timeout_is_its_own(record: RunRecord, results: Path) -> None:
    assert deliver(FakeTracker(TimeoutError("upload")), record, results, None) == "TimeoutError: upload"


def test_a_tracker_that_raises_fails_no_experiment(make) -> None:
    outcomes = run_all([replace(make(), tracking=FakeTracker(OSError("down")))], Workbench(), Reporter())
    check_kept(outcomes, "OSError: down")


def test_a_tracker_that_hangs_fails_no_experiment(make, hanging: HangingTracker) -> None:
    experiment, bench = make(), Workbench()
    run_all([experiment], bench, Reporter())
    start = time.monotonic()
    outcomes = run_all([replace(experiment, tracking=hanging)], bench, Reporter())
    assert time.monotonic() - start < 5
    check_kept(outcomes, "TimeoutError: not done after 0.2 seconds")


def check_kept(outcomes, reason: str) -> None:
    """The experiment has its record, the record its entry, the log its warning."""
    (outcome,) = outcomes
    assert outcome.failure is None
    assert load_records(outcome.experiment.paths.folder) == [outcome.record]
    assert [(entry.kind, entry.where) for entry in outcome.record.irregularities] == [("tracking_failed", "fake")]
    assert f"WARNING nowag_exp.tracking.outbox: not sent to fake: {reason}" in outcome.log_file.read_text()


def fail(*args: object) -> None:
    raise OSError("the board is gone")


def test_the_command_says_that_a_record_was_not_sent_and_track_sends_it_later(
    workplace: Path, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(TensorBoardTracking, "send", fail)
        assert main(["run", *tiny_run, "tracking=tensorboard"]) == 0
        out, err = capfd.readouterr()
        assert "tracking_failed:1" in out
        assert err == "tiny nowag_p 50%: recorded, but not sent to tensorboard: OSError: the board is gone\n"
        (record,) = load_records(workplace / "results")
        label = f"{record.fingerprint} tiny nowag_p 50%"
        assert main(["track", "tracking=tensorboard"]) == 1
        assert capfd.readouterr().out == (
            f"{label}: failed, OSError: the board is gone\ntensorboard: 0 sent, 0 sent before, 1 failed\n"
        )
    assert main(["track", "tracking=tensorboard"]) == 0
    assert capfd.readouterr().out == f"{label}: sent\ntensorboard: 1 sent, 0 sent before, 0 failed\n"
    assert (workplace / "results" / "tensorboard" / "runs" / record.fingerprint).is_dir()
    assert record.irregularities[-1].kind == "tracking_failed"
    assert load_records(workplace / "results") == [replace(record, irregularities=record.irregularities[:-1])]
    assert main(["track", "tracking=tensorboard"]) == 0
    assert capfd.readouterr().out == f"{label}: sent before\ntensorboard: 0 sent, 1 sent before, 0 failed\n"


def test_a_recorded_experiment_is_sent_when_tracking_is_asked_for_later(
    workplace: Path, tiny_run: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *tiny_run]) == 0
    assert not (workplace / "results" / "tracked").exists()
    assert main(["run", *tiny_run, "tracking=tensorboard"]) == 0
    assert capfd.readouterr().err == "recorded already, nothing was computed\n"
    assert len(list((workplace / "results").glob("tensorboard/runs/*/*tfevents*"))) == 1


def test_the_runs_of_a_sweep_are_grouped_under_its_name(workplace: Path, tiny_run: list[str]) -> None:
    assert main(["sweep", "demo", *tiny_run, "method=magnitude", "tracking=tensorboard"]) == 0
    assert len(list((workplace / "results").glob("tensorboard/demo/*/*tfevents*"))) == 2, "2:4 and half"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "tracking=none: sends nothing; choose one: nowag-exp track tracking=tensorboard or tracking=wandb"),
        (["tracking=wandb"], "results: holds no records, so nothing was sent; set paths.results=DIR"),
        (["tracking=mlflow"], "tracking=mlflow: no such option; there are: none, tensorboard, wandb"),
        (["tracking=wandb", "tracking.projekt=a"], "tracking.projekt: unknown key; there are: "),
        (
            ["model=tiny"],
            "model=tiny: this verb takes no override but tracking=NAME, tracking.KEY=VALUE and paths.results=DIR",
        ),
    ],
)
def test_track_says_what_is_wrong(
    workplace: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["track", *arguments]) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith(f"error: {message}")
