import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

from nowag_exp import files
from nowag_exp.errors import RequestError
from nowag_exp.files import atomic_folder, atomic_write, remove_left_behind
from nowag_exp.ledger import Ledger
from nowag_exp.records.store import Store, Stored, content_key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


ENTRY = Stored({"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}, {"seconds": 1.5})


def test_an_entry_comes_back_as_it_was(store: Store) -> None:
    store.save("statistics", "k", ENTRY)
    back = store.load("statistics", "k", Ledger())
    assert back is not None
    assert back.notes == ENTRY.notes
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in ENTRY.tensors.items())


def test_a_mapped_entry_stays_what_it_was_when_it_is_replaced_or_removed(store: Store) -> None:
    store.save("statistics", "k", ENTRY)
    mapped = store.load("statistics", "k", Ledger(), mapped=True)
    store.save("statistics", "k", Stored({"a": torch.zeros(2, 3), "n": torch.tensor(0)}, {}))
    store.remove("statistics", "k")
    assert mapped is not None
    assert all(torch.equal(mapped.tensors[name], tensor) for name, tensor in ENTRY.tensors.items())


# How it is seen is Linux's; that a mapped entry stays what it was is tested above, everywhere.
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere what is mapped need not follow the file; it may")
def test_only_a_mapped_entry_stays_in_its_file(store: Store) -> None:
    store.save("statistics", "k", Stored({"a": torch.ones(4096)}, {}))
    mapped, read = (store.load("statistics", "k", Ledger(), mapped=mapped) for mapped in (True, False))
    assert mapped is not None
    assert read is not None
    with store.path("statistics", "k").open("r+b") as file:  # As nobody does: entries are replaced whole.
        file.seek(-4096 * 4, os.SEEK_END)
        file.write(bytes(4096 * 4))
    assert mapped.tensors["a"].sum() == 0
    assert read.tensors["a"].sum() == 4096


def test_a_missing_entry_is_none_and_not_irregular(store: Store) -> None:
    ledger = Ledger()
    assert store.load("statistics", "k", ledger) is None
    assert not ledger.entries


@pytest.mark.parametrize("position", [3, 40, 200, -1])
def test_a_flipped_byte_anywhere_is_noticed_and_written_down(store: Store, position: int) -> None:
    store.save("statistics", "k", ENTRY)
    path = store.path("statistics", "k")
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)
    ledger = Ledger()
    assert store.load("statistics", "k", ledger) is None
    assert [(entry.kind, entry.where) for entry in ledger.entries] == [
        ("corrupted_store_entry", "statistics/k.safetensors")
    ]
    assert not path.exists()


def test_of_two_that_meet_a_damaged_entry_neither_fails(store: Store) -> None:
    store.save("statistics", "k", ENTRY)
    store.path("statistics", "k").write_bytes(b"damaged")

    class OtherWasFirst(Ledger):
        def add(self, *arguments: object) -> None:
            super().add(*arguments)
            store.remove("statistics", "k")

    ledger = OtherWasFirst()
    assert store.load("statistics", "k", ledger) is None
    assert len(ledger.entries) == 1


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_entry_is_noticed(store: Store, length: int) -> None:
    store.save("statistics", "k", ENTRY)
    path = store.path("statistics", "k")
    path.write_bytes(path.read_bytes()[:length])
    ledger = Ledger()
    assert store.load("statistics", "k", ledger) is None
    assert len(ledger.entries) == 1


def test_keys_do_not_depend_on_the_order_of_a_mapping() -> None:
    assert content_key({"a": 1, "b": [1, None]}) == content_key({"b": [1, None], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def _write_half_and_die(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        (temporary.parent / ".tmpRbQmBJ").write_text("safetensors writes to a file of its own before it renames it")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_was_writing_is_removed_by_who_writes_it_next(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_half_and_die, args=(tmp_path / "file",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [entry.name == "file" for entry in tmp_path.iterdir()] == [False]
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "whole"


def test_what_another_container_of_this_machine_is_writing_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "getpid", lambda: 2**22 + 1, raising=True)  # As no process here is numbered.
    with monkeypatch.context() as patch:
        patch.setattr(files, "_machine", lambda: f"{socket.gethostname()}-1")
        elsewhere = atomic_write(tmp_path / "file")
        temporary = elsewhere.__enter__()
    temporary.write_text("theirs")
    with atomic_write(tmp_path / "file") as ours:
        ours.write_text("ours")
    remove_left_behind(tmp_path)
    elsewhere.__exit__(None, None, None)
    assert (tmp_path / "file").read_text() == "theirs"


def test_an_interrupted_folder_is_not_there_and_a_killed_ones_remains_are_removed(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_folder(tmp_path / "model") as temporary:
            (temporary / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".model.killed.tmp").mkdir()
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "whole").write_text("x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_what_is_whole_in_a_cache_that_cannot_be_written_is_used(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "text").write_text("whole")

    def is_intact(folder: Path) -> bool:
        return (folder / "text").read_text() == "whole"

    folder = tmp_path / "cache" / "texts"
    files.made_once(folder, make, is_intact)
    shutil.rmtree(tmp_path / "cache" / ".locks")
    (tmp_path / "cache" / ".locks").write_text("no folder: as on a disk that is read-only, no lock can be made")
    files.made_once(folder, make, is_intact)
    (folder / "text").write_text("damaged")
    with pytest.raises(RequestError, match=r"cache: cannot be written to .* NOWAG_EXP_CACHE=DIR"):
        files.made_once(folder, make, is_intact)


def _compute_once(root: Path, log: Path, here: Path, other: Path) -> None:
    store = Store(root)
    here.touch()
    while not other.exists():  # Both start at once.
        time.sleep(0.001)
    with store.lock("statistics", "k"):
        if store.load("statistics", "k", Ledger()) is None:
            with log.open("a") as file:
                file.write("computed\n")
            time.sleep(0.3)
            store.save("statistics", "k", ENTRY)


def test_two_processes_compute_an_entry_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    marks = [tmp_path / "first", tmp_path / "second"]
    processes = [
        context.Process(target=_compute_once, args=(tmp_path / "store", tmp_path / "log", here, other))
        for here, other in (marks, marks[::-1])
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "computed\n"
