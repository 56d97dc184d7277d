"""Runs are read back from the file that an offline run leaves, by its frame format."""

import getpass
import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import wandb
from google.protobuf.json_format import MessageToDict
from wandb.proto.wandb_internal_pb2 import Record

from nowag_exp.cli import main
from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.records.record import RunRecord, load_records
from nowag_exp.records.tables import COLUMNS
from nowag_exp.tracking import Tracker, WandbTracking, deliver, send_saved
from nowag_exp.tracking.contents import facts, metrics, numbers

KEY = "0123456789abcdef" * 3


def tracker(**changes: Any) -> WandbTracking:
    return replace(build(compose(["tracking=wandb"])["tracking"], "tracking", WandbTracking), **changes)


def frames(path: Path) -> Iterator[bytes]:
    """Records of a ``.wandb`` file: 7 bytes of header, then blocks of 32 KiB of (crc, length, type, data)."""
    content, position, parts = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@dataclass
class OfflineRun:
    """What W&B would upload."""

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        (path,) = self.folder.glob("*.wandb")
        for frame in frames(path):
            part = Record.FromString(frame)
            self.text += json.dumps(MessageToDict(part), ensure_ascii=False)
            match part.WhichOneof("record_type"):
                case "run":
                    self.run = part.run
                    self.config |= {item.key: json.loads(item.value_json) for item in part.run.config.update}
                case "summary":
                    self.summary |= self._values(part.summary.update)
                case "history":
                    self.steps.append(self._values(part.history.item))
                case "files":
                    self.files += [file.path for file in part.files.files]
                case "artifact":
                    self.artifacts.append(part.artifact)

    @staticmethod
    def _values(items: Any) -> dict[str, Any]:
        return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    def table(self, key: str) -> dict[str, Any]:
        assert self.summary[key]["_type"] == "table-file"
        return json.loads((self.folder / "files" / self.summary[key]["path"]).read_text())


def offline_runs(results: Path) -> list[OfflineRun]:
    wandb.teardown()  # Its service has a file whole a moment after a run has finished, or when it ends.
    return [OfflineRun(folder) for folder in sorted((results / "wandb").glob("offline-run-*"))]


def test_an_offline_run_holds_the_record(record: RunRecord, results: Path) -> None:
    tracker(project="mine").send(record, results, "demo")
    (sent,) = offline_runs(results)
    assert (sent.run.run_id, sent.run.project, sent.run.run_group) == (record.fingerprint, "mine", "demo")
    assert sent.run.display_name == "tiny magnitude 50%"
    assert sent.run.resume
    del sent.config["_wandb"]
    assert sent.config == record.config
    assert (numbers(record) | facts(record)).items() <= sent.summary.items()
    (step,) = sent.steps
    assert {key: value for key, value in step.items() if not key.startswith("_")} == metrics(record)
    assert step["_step"] == 0
    assert "record.json" in sent.files
    assert (sent.folder / "files" / "record.json").read_text() == record.to_json()


def test_the_ledger_and_the_row_of_the_table_are_tables(record: RunRecord, results: Path, wandb_home: Path) -> None:
    tracker().send(record, results, None)
    (sent,) = offline_runs(results)
    assert sent.table("ledger") == {
        "columns": ["kind", "where", "detail", "count"],
        "data": [["dead_columns", "model.layers.0", "of 64 inputs", 2]],
    }
    table = sent.table("table")
    assert tuple(table["columns"]) == COLUMNS
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert {(row["metric"], row["protocol"], row["value"]) for row in rows} == {
        (metric.name, metric.protocol, metric.value) for metric in record.metrics
    }
    assert rows[0]["n_sequences"] is None, "magnitude uses no calibration"
    assert {file for file in sent.files if file.startswith("media")} == {
        sent.summary[key]["path"] for key in ("ledger", "table")
    }
    assert [path for path in wandb_home.glob("DATA/**/*") if path.is_file()] == [], "no copy in the home"


def test_a_regular_record_has_an_empty_ledger(record: RunRecord, results: Path) -> None:
    tracker().send(replace(record, irregularities=[]), results, None)
    assert offline_runs(results)[0].table("ledger")["data"] == []


def test_a_saved_checkpoint_is_an_artifact_that_is_read_where_it_is(
    record: RunRecord, results: Path, wandb_home: Path
) -> None:
    folder = results / "checkpoints" / f"tiny-magnitude-{record.fingerprint}"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    other = folder.with_name("tiny-magnitude-0000000000000000")
    other.mkdir()
    (other / "config.json").touch()
    tracker().send(record, results, None)
    tracker(checkpoints=False).send(record, results, None)
    with_checkpoint, without = offline_runs(results)
    assert without.artifacts == []
    (artifact,) = with_checkpoint.artifacts
    assert (artifact.type, artifact.name) == ("model", f"checkpoint-{record.fingerprint}")
    assert {entry.path: entry.local_path for entry in artifact.manifest.contents} == {
        name: str(folder / name) for name in ("config.json", "model.safetensors")
    }
    assert [path for path in wandb_home.glob("DATA/**/*") if path.is_file()] == []


def test_without_a_checkpoint_there_is_no_artifact(record: RunRecord, results: Path) -> None:
    tracker().send(record, results, None)
    assert offline_runs(results)[0].artifacts == []


def test_a_run_names_nobody(record: RunRecord, results: Path) -> None:
    tracker().send(record, results, None)
    (sent,) = offline_runs(results)
    assert sent.run.host == ""
    assert not sent.run.HasField("git")
    for secret in (getpass.getuser(), socket.gethostname()):
        assert not re.search(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", sent.text)


def test_a_record_with_a_receipt_is_not_sent_and_without_one_continues_its_run(
    record: RunRecord, results: Path
) -> None:
    assert deliver(tracker(), record, results, None) is None
    assert deliver(tracker(), record, results, None) is None
    assert len(offline_runs(results)) == 1
    (receipt,) = (results / "tracked" / "wandb").iterdir()
    receipt.unlink()
    assert deliver(tracker(), record, results, None) is None
    first, second = offline_runs(results)
    assert first.run.run_id == second.run.run_id == record.fingerprint
    assert second.run.resume
    assert first.summary["fingerprint"] == second.summary["fingerprint"]


def test_another_project_or_mode_is_another_destination() -> None:
    places = [tracker(), tracker(project="other"), tracker(entity="lab"), tracker(mode="online")]
    assert len({place.destination() for place in places}) == 4
    assert tracker(timeout=1).destination() == tracker().destination()


def test_online_without_a_login_is_refused_before_anything_is_run(
    workplace: Path, tiny_run: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *tiny_run, "tracking=wandb", "tracking.mode=online"]) == 2
    assert capfd.readouterr().err == (
        "error: tracking.mode=online: not logged in to W&B; run: wandb login, or set WANDB_API_KEY, or set "
        "tracking.mode=offline\n"
    )
    assert not list(workplace.glob("results/*"))


def test_a_login_is_found_in_the_environment_and_for_its_own_server_in_netrc(
    wandb_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = tracker(mode="online")
    (wandb_home / "netrc").write_text(f"machine wandb.lab.example\n  login user\n  password {KEY}\n")
    with pytest.raises(RequestError, match="not logged in"):
        online.check()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab.example")
    wandb.teardown()  # The environment is read once.
    online.check()
    assert online.destination() == "https://wandb.lab.example: default entity/nowag-exp"
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    wandb.teardown()
    online.check()
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(RequestError, match=r"tracking\.mode=online: WANDB_API_KEY invalid: API key must have 40\+"):
        online.check()


def test_a_password_in_the_servers_url_is_no_part_of_the_destination_that_receipts_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "https://user:PLANTED@wandb.lab.example")
    wandb.teardown()
    assert tracker(mode="online").destination() == "https://wandb.lab.example: default entity/nowag-exp"


def test_offline_needs_no_login() -> None:
    tracker().check()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracking.mode=sometimes", "tracking.mode: input should be 'offline' or 'online'; got 'sometimes'"),
        ("tracking.timeout=0", "tracking.timeout: must be more than 0 seconds; got 0"),
        ("tracking.project=''", "tracking.project: must not be empty; set tracking.project=NAME"),
        ("tracking.project=a/b", "tracking.project: "),
        ("tracking.entity=a/b", "tracking.entity: "),
        ("tracking.entity=''", "tracking.entity: "),
        (f"tracking.group={'g' * 129}", "tracking.group: "),
        ("tracking.project=null", "tracking.project: input should be a valid string; got None"),
    ],
)
def test_a_wrong_setting_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(compose(["tracking=wandb", override])["tracking"], "tracking", Tracker)
    assert caught.value.problems[0].startswith(message)


@pytest.mark.parametrize("name", ["a" * 128, "a" * 129, "ä b", *(f"a{character}b" for character in "/\\#?%:.-_,;")])
def test_a_project_is_refused_before_work_exactly_where_wandb_refuses_it(name: str) -> None:
    wandb = pytest.importorskip("wandb")
    try:
        wandb.Settings(project=name)
        refused = False
    except wandb.errors.UsageError:
        refused = True
    settings = {**compose(["tracking=wandb"])["tracking"], "project": name}
    with pytest.raises(ConfigError, match="project: ") if refused else nullcontext():
        build(settings, "tracking", Tracker)


def test_a_server_that_is_not_there_is_a_failure_in_bounded_time(
    record: RunRecord, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound but not listening: nobody else can, and connecting is refused.
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        start = time.monotonic()
        after, failure = send_saved(tracker(mode="online", timeout=1), record, results, None)
        assert failure is not None
        assert time.monotonic() - start < 10
    assert [entry.kind for entry in after.irregularities] == ["dead_columns", "tracking_failed"]


def test_an_api_key_gets_into_no_file(
    workplace: Path, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert main(["run", *tiny_run, "tracking=wandb"]) == 0
    out, err = capfd.readouterr()
    files = [path for path in (workplace / "results").rglob("*") if path.is_file()]
    assert {"results/runs", "results/logs", "results/wandb"} <= {
        "/".join(path.relative_to(workplace).parts[:2]) for path in files
    }
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in out + err
    assert err == "", "W&B says nothing of its own"
    assert "tracking_failed" not in {entry.kind for entry in load_records(workplace / "results")[0].irregularities}
