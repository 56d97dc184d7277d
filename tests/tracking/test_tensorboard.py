"""Read back with TensorBoard's own reader."""

import importlib.util
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.records.record import RunRecord
from nowag_exp.tracking import TensorBoardTracking
from nowag_exp.tracking.contents import numbers


def tracker(**changes: Any) -> TensorBoardTracking:
    return replace(build(compose(["tracking=tensorboard"])["tracking"], "tracking", TensorBoardTracking), **changes)


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def text(board: EventAccumulator, tag: str) -> str:
    (event,) = board.Tensors(f"{tag}/text_summary")
    (value,) = event.tensor_proto.string_val
    return value.decode()


def test_a_folder_holds_the_record(record: RunRecord, results: Path) -> None:
    tracker().send(record, results, "demo")
    folder = results / "tensorboard" / "demo" / record.fingerprint
    board = read(folder)
    found = {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert set(found) == set(numbers(record))
    for tag, value in numbers(record).items():
        assert found[tag] == [(0, pytest.approx(float(value), rel=1e-6))], "fp32, once"
    assert json.loads(text(board, "config")) == record.config
    assert "| dead_columns | model.layers.0 | of 64 inputs |       2 |" in text(board, "ledger")
    assert record.inputs.model_files["config.json"] in text(board, "facts")
    plugins = board.summary_metadata
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(plugins)
    assert b"magnitude" in plugins["_hparams_/session_start_info"].plugin_data.content


def test_its_files_name_no_host(record: RunRecord, results: Path) -> None:
    tracker().send(record, results, None)
    (file,) = (results / "tensorboard" / "runs" / record.fingerprint).iterdir()
    assert file.name == f"events.out.tfevents.{record.fingerprint}"
    assert f".{socket.gethostname()}.".encode() not in file.read_bytes()


def test_sending_again_replaces(record: RunRecord, results: Path) -> None:
    for group, value in ((None, 1.0), (None, 2.0), ("demo", 3.0)):
        changed = replace(record.metrics[0], value=value)
        tracker().send(replace(record, metrics=[changed]), results, group)
        (file,) = (results / "tensorboard").glob("*/*/*tfevents*")
        board = read(file.parent)
        (tag,) = [tag for tag in board.Tags()["scalars"] if tag.startswith("perplexity") and tag[-5:] != "error"]
        assert [event.value for event in board.Scalars(tag)] == [value]
    assert file.parent.parent.name == "demo"


def test_a_group_of_the_settings_comes_before_that_of_the_sweep(record: RunRecord, results: Path) -> None:
    tracker(group="mine").send(record, results, "demo")
    assert (results / "tensorboard" / "mine" / record.fingerprint).is_dir()


@pytest.mark.parametrize("group", ["..", "a/b", "''"])
def test_a_group_is_the_name_of_a_folder(group: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.group: must be the name of a folder; got "):
        build(compose(["tracking=tensorboard", f"tracking.group={group}"])["tracking"], "tracking", TensorBoardTracking)


def test_a_missing_package_is_found_before_anything_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker().check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"tensorboard is not installed; run: pip install \.\[tensorboard\]"):
        tracker().check()
