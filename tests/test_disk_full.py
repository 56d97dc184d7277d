"""A disk without room: one line that says what it needed, nothing half written, and the same command goes on."""

import json
import os
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from nowag_exp import files
from nowag_exp.cli import main
from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.execution import Inline, run_all
from nowag_exp.experiment import Workbench
from nowag_exp.files import DiskFullError, atomic_folder, atomic_write
from nowag_exp.formats.folder import FolderWriter
from nowag_exp.ledger import Ledger
from nowag_exp.progress import Reporter
from nowag_exp.records.store import Store, Stored
from nowag_exp.runner import Outcome
from tests.small_disk import remount, small_disk

resource = pytest.importorskip("resource", reason="not on Windows, which has no largest file")

CHECKPOINT = 244_000
"""Bytes of the tiny model's tensors, pruned by half; no file in the store is as large."""


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """The operating system refuses to write further than that into any file: what a full disk is like, anywhere."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture
def run(workplace: Path, tiny_run: list[str]):
    """Run one experiment; every block is kept on the way."""

    def _run(results: Path, *overrides: str) -> Outcome:
        settings = [*tiny_run, "method=wanda", "runtime.save_every=0", f"paths.results={results}", *overrides]
        (outcome,) = run_all(
            [build_experiment(compose(settings))], Workbench(), Reporter(), executor=Inline(name="inline")
        )
        return outcome

    return _run


def content(results: Path) -> dict[str, object]:
    """Of the only record, but for what it cost and where it was."""
    (path,) = (results / "runs").glob("*.json")
    record = json.loads(path.read_text())
    del record["costs"], record["checksum"], record["config"]["paths"]
    return record


def left_over(results: Path) -> list[Path]:
    return [*results.rglob("*.tmp"), *results.rglob("shard-*")]


def test_a_checkpoint_that_a_file_cannot_hold_fails_its_job_and_is_finished_by_the_next_run(
    run, workplace: Path
) -> None:
    assert run(workplace / "whole", "checkpoint.save=true").record
    with largest_file(CHECKPOINT - 50_000):
        failed = run(workplace / "results", "checkpoint.save=true")
    assert failed.record is None
    assert "File too large: it needs 0.24 MB, " in failed.failure
    assert "MB are free; make room, or set paths.results=DIR" in failed.failure
    assert str(failed.experiment.checkpoint_folder) in failed.failure, "its own name, not that of a part of it"
    assert left_over(workplace / "results") == []
    assert not failed.experiment.checkpoint_folder.exists()
    assert list((workplace / "results" / "store").rglob("block-*.safetensors")), "what was done is kept"
    again = run(workplace / "results", "checkpoint.save=true")
    assert again.record
    assert content(workplace / "results") == content(workplace / "whole")
    shards = [
        (workplace / name / "checkpoints" / failed.experiment.checkpoint_folder.name / "model.safetensors").read_bytes()
        for name in ("whole", "results")
    ]
    assert shards[0] == shards[1]


@pytest.mark.parametrize(
    ("size", "overrides", "where"),
    [(360_000, ["checkpoint.save=true"], "disk/checkpoints/tiny-wanda-"), (80_000, [], "disk/store/")],
    ids=["checkpoint", "store"],
)
def test_a_full_disk_fails_one_job_and_leaves_what_was_kept(
    run, disk: Path, workplace: Path, size: int, overrides: list[str], where: str
) -> None:
    remount(disk, f"size={size}")
    failed = run(disk, *overrides)
    assert failed.record is None
    assert failed.failure.startswith(str(disk.parent / where)), failed.failure
    assert "No space left on device: it needs 0." in failed.failure
    assert list((disk / "store").rglob("*.safetensors")), "found while it worked, not before"
    assert left_over(disk) == []
    ledger = Ledger()
    store = Store(disk / "store")
    for path in (disk / "store").rglob("*.safetensors"):
        assert store.load(str(path.parent.relative_to(store.root)), path.stem, ledger) is not None
    assert ledger.entries == []
    remount(disk, "size=10M")
    assert run(disk, *overrides).record
    assert run(workplace / "whole", *overrides).record
    assert content(disk) == content(workplace / "whole")


def test_a_disk_without_room_for_the_checkpoint_is_found_before_any_work(
    run, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(CHECKPOINT - 10_000))
    failed = run(workplace / "results", "checkpoint.save=true")
    assert "No space left on device: it needs 0.24 MB, 0.23 MB are free; make room" in failed.failure
    assert not (workplace / "results" / "store").exists(), "nothing was computed"
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(CHECKPOINT + 10_000))
    assert run(workplace / "results", "checkpoint.save=true").record


def test_even_where_not_a_line_can_be_written_the_command_ends_with_one(
    disk: Path, workplace: Path, tiny_run: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Logs are on the disk that is full, and logging prints tracebacks of its own when it cannot write."""
    for folder in ("logs", "runs/.locks"):
        (disk / folder).mkdir(parents=True)
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(bytes(100_000))
    assert main(["run", *tiny_run, "method=magnitude", f"paths.results={disk}"]) == 1
    said = capfd.readouterr().err
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert "Logging error" not in said


def test_an_entry_without_room_leaves_the_old_one_and_the_others(tmp_path: Path) -> None:
    store, ledger = Store(tmp_path / "store"), Ledger()
    old = Stored({"a": torch.arange(8.0)}, {})
    store.save("statistics", "k", old)
    with largest_file(50_000), pytest.raises(DiskFullError) as raised:
        store.save("statistics", "k", Stored({"a": torch.zeros(100_000)}, {}))
    path = store.path("statistics", "k")
    assert str(raised.value).startswith(f"{path}: File too large: it needs 0.40 MB, ")
    assert [file for file in path.parent.iterdir() if file.is_file()] == [path]
    assert torch.equal(store.load("statistics", "k", ledger).tensors["a"], old.tensors["a"])


def test_a_folder_without_room_leaves_the_old_one_and_counts_all_tensors(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with atomic_folder(folder) as temporary:
        (temporary / "kept").write_text("old")

    def write() -> None:
        with atomic_folder(folder) as temporary:
            writer = FolderWriter(temporary)
            writer.add_tensor("small", torch.zeros(25_000))
            writer.add_tensor("large", torch.zeros(50_000))
            writer.finish({}, [])

    with largest_file(50_000), pytest.raises(DiskFullError) as raised:
        write()
    assert str(raised.value).startswith(f"{folder}: File too large: it needs 0.30 MB, ")
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert (folder / "kept").read_text() == "old"


def test_other_failures_of_a_write_keep_their_own_words(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "file"):
        1 / 0  # noqa: B018
    with pytest.raises(PermissionError), atomic_write(tmp_path / "file"):
        raise PermissionError(13, os.strerror(13))
    assert list(tmp_path.iterdir()) == []
