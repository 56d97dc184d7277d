"""Sending with receipts: nothing is sent twice or lost, and a tracker that fails or hangs fails no experiment."""

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from nowag_exp.errors import RequestError, one_line
from nowag_exp.files import atomic_write
from nowag_exp.ledger import Irregularity
from nowag_exp.records.record import RunRecord, save_record
from nowag_exp.tracking.base import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Receipt:
    """What is known of sending one record by one tracker.

    Attributes:
        group: sweep that it is to be sent under; kept also if sending fails.
        sent: sha256 of the content that arrived, by destination.
    """

    group: str | None = None
    sent: dict[str, str] = field(default_factory=dict)


def deliver(tracker: Tracker, record: RunRecord, results: Path, group: str | None) -> str | None:
    """Send a record unless it has been sent; return why that failed, in one line, or ``None``.

    Whatever a tracker raises is a reason. One that hangs is left alone in its thread after ``tracker.timeout`` seconds.
    Without a ``group`` the record goes under the one that it was to be sent under before, if there is one.
    """
    path, content = _receipt_path(tracker, record, results), without_tracking(record)
    try:
        destination = tracker.destination()
        if destination is None:
            return None
        receipt, digest = _read(path), _digest(content)
        if receipt.sent.get(destination) == digest:
            return None
        receipt = replace(receipt, group=group or receipt.group)
        _write(path, receipt)
        tracker.check()
        _within(tracker.timeout, lambda: tracker.send(content, results, receipt.group))
        _write(path, replace(receipt, sent={**receipt.sent, destination: digest}))
    except Exception as error:
        reason = one_line(error)
        log.warning("not sent to %s: %s", tracker.name, reason, exc_info=error)
        return reason
    log.info("sent to %s (%s)", tracker.name, destination)
    return None


def is_sent(tracker: Tracker, record: RunRecord, results: Path) -> bool:
    """Whether the tracker's destination has this record as it is now."""
    receipt = _read(_receipt_path(tracker, record, results))
    return receipt.sent.get(tracker.destination() or "") == _digest(without_tracking(record))


def send_saved(tracker: Tracker, record: RunRecord, results: Path, group: str | None) -> tuple[RunRecord, str | None]:
    """Deliver a record that is saved, and keep in its ledger whether that failed.

    The caller holds the lock of the record. Its fingerprint and all else stay as they are.

    Returns:
        The record as it is saved now, and why sending failed, if it did.
    """
    failure = deliver(tracker, record, results, group)
    entries = [
        entry for entry in record.irregularities if (entry.kind, entry.where) != ("tracking_failed", tracker.name)
    ]
    if failure:
        # The reason may name paths and hosts, so it stays in the log.
        detail = "not sent, the log says why; nowag-exp track sends it"
        entries.append(Irregularity("tracking_failed", tracker.name, detail, 1))
    if entries != record.irregularities:
        record = replace(record, irregularities=entries)
        save_record(results, record)
    return record, failure


def without_tracking(record: RunRecord) -> RunRecord:
    """The record but for what its ledger says of tracking: that is not true any more once it has arrived."""
    entries = [entry for entry in record.irregularities if entry.kind != "tracking_failed"]
    return replace(record, irregularities=entries)


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do the work in a thread, so that waiting for it ends.

    Raises:
        TimeoutError: if it is not done by then; the thread is a daemon, so it does not keep the process.
    """
    outcome: Future[None] = Future()

    def body() -> None:
        try:
            work()
            outcome.set_result(None)
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=body, name="tracking", daemon=True).start()
    try:
        outcome.result(timeout=seconds)
    except TimeoutError:
        if outcome.done():
            raise  # The tracker's own.
        raise TimeoutError(f"not done after {seconds:g} seconds") from None


def _digest(record: RunRecord) -> str:
    return hashlib.sha256(record.to_json().encode()).hexdigest()


def _receipt_path(tracker: Tracker, record: RunRecord, results: Path) -> Path:
    return results / "tracked" / tracker.name / f"{record.fingerprint}.json"


def _read(path: Path) -> Receipt:
    if not path.exists():
        return Receipt()
    try:
        return TypeAdapter(Receipt).validate_json(path.read_bytes())
    except ValidationError as error:
        raise RequestError(f"{path}: is damaged; remove it, and the record is sent again") from error


def _write(path: Path, receipt: Receipt) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asdict(receipt), indent=1) + "\n", encoding="utf-8")
