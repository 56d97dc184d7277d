"""Trials: a sweep of six jobs on the tiny model that something happens to, held against one left alone."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout
from safetensors import safe_open

from nowag_exp.records.record import load_record
from nowag_exp.tracking.outbox import is_sent
from nowag_exp.tracking.tensorboard import TensorBoardTracking
from tests.faults.child import Sabotage, at_boundaries, at_changes, body

SIX_JOBS = """
base: {model: tiny}
axes:
  - {method: nowag_p, method.pattern: "unstructured,2:4"}
  - {method: "wanda,sparsegpt", method.pattern: "2:4"}
  - {method: sparsegpt, method.pattern: "unstructured,2:4", method.propagate: dense}
"""
"""A sweep that reads and writes every kind of entry of the store."""

SWEEP = [
    "sweep",
    "six",
    "calibration=files",
    "calibration.path=cal.txt",
    "calibration.n_sequences=2",
    "evaluation=files",
    "evaluation.files.path=eval.txt",
    "evaluation.files.n_windows=2",
    "model.context_length=64",
    "runtime.threads=1",
    "checkpoint.save=true",
    "tracking=tensorboard",
]
N_JOBS, N_SPARSEGPT = 6, 3
N_PASSES = 2
"""Of the dense model: for NoWag-P, and with second moments, which are complete at the end of the second."""

KEEP_ALL, KEEP_LITTLE = "runtime.save_every=0", "runtime.save_every=60"
"""Whether the state of a job is kept after each block, or nothing of a job that takes a second."""

COSTS = {"seconds", "peak_bytes", "peak_gpu_bytes"}
"""What a store entry notes of the run that made it."""

LONGEST = 300.0
"""Seconds; a trial that takes longer hangs."""


@dataclass
class Ended:
    """How the command ended: its exit code (negative: the signal that killed it), and what it said."""

    code: int
    said: str


class Trial:
    """A folder with texts, a cache and results of its own, in which a command is run again and again.

    Args:
        folder: is made if it is not there.
        context: starts processes.
        command: of nowag-exp.
    """

    def __init__(self, folder: Path, context: Any, command: list[str] = SWEEP) -> None:
        if not folder.exists():
            _fill(folder)
        self.folder, self._context, self._command = folder, context, command
        self.cache, self.results = folder / "cache", folder / "results"
        self._n_runs = 0

    def start(self, *overrides: str, sabotage: Sabotage | None = None) -> "Running":
        """Begin the command in a process."""
        self._n_runs += 1
        output = self.folder / f"said{self._n_runs}.txt"
        process = self._context.Process(
            target=body, args=([*self._command, *overrides], str(self.folder), str(output), sabotage)
        )
        process.start()
        return Running(process, output)

    def run(self, *overrides: str, sabotage: Sabotage | None = None) -> Ended:
        """Run the command to its end, or that of its process."""
        return self.start(*overrides, sabotage=sabotage).wait()

    def finish(self, *overrides: str) -> str:
        """Run the command to a good end, however often it was run before; returns what it said."""
        ended = self.run(*(overrides or [KEEP_ALL]))
        assert ended.code == 0, ended.said
        return ended.said

    def corrupted(self) -> list[str]:
        """Entries of the store that ledgers say were damaged."""
        ledgers = [json.loads(path.read_bytes())["irregularities"] for path in self.results.glob("runs/*.json")]
        return [entry["where"] for ledger in ledgers for entry in ledger if entry["kind"] == "corrupted_store_entry"]

    def finished(self) -> dict[str, tuple[int, int]]:
        """What nobody may make again: each file that is whole, by the file system's number and time of it."""
        kept = [*self.results.glob("runs/*"), *self.results.glob("store/*/*"), *self.cache.glob("*/*/*")]
        unfinished = {"walks"}  # Where a pass over the blocks stands; it goes when the pass has ended.
        if len(list(self.results.glob("store/statistics/*.safetensors"))) < N_PASSES:
            unfinished.add("second_moments")  # Of a pass that has not: of no use without where it stands.
        return {
            str(path.relative_to(self.folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in kept
            if path.is_file()
            and path.parent.name not in unfinished
            and not any(part.startswith(".") for part in path.relative_to(self.folder).parts)
        }

    def state(self) -> dict[str, str]:
        """Each file that the runs left, with the sha256 of what it says, times aside."""
        tops = (self.cache, self.results)
        return {
            str(path.relative_to(self.folder)): _digest(path)
            for top in tops
            for path in sorted(top.rglob("*"))
            if path.is_file() or path.suffix == ".tmp" or path.parent.name == "unfinished"
        }

    def compare(self, whole: "Whole", finished: dict[str, tuple[int, int]]) -> dict[str, list[str]]:
        """What differs from the sweep that was left alone, and what was made again though it was ``finished``."""
        state, now = self.state(), self.finished()
        common = whole.state.keys() & state.keys()
        return {
            "lost": sorted(whole.state.keys() - state.keys()),
            "differ": sorted(name for name in common if state[name] != whole.state[name]),
            "left behind": sorted(state.keys() - whole.state.keys()),
            "made again": sorted(name for name, was in finished.items() if now.get(name) != was),
        }

    def held_locks(self) -> list[Path]:
        """Locks that somebody still holds."""
        held = []
        for path in self.folder.rglob("*.lock"):
            try:
                with FileLock(path, timeout=0):
                    pass
            except Timeout:
                held.append(path)
        return held


@dataclass
class Running:
    """A sweep that runs."""

    process: Any
    output: Path

    def wait(self) -> Ended:
        """Until it ends."""
        self.process.join(LONGEST)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            pytest.fail(f"did not end in {LONGEST:.0f} s; it said:\n{self.output.read_text(encoding='utf-8')}")
        return Ended(self.process.exitcode, self.output.read_text(encoding="utf-8"))


def _fill(folder: Path) -> None:
    (folder / "sweeps").mkdir(parents=True)
    (folder / "sweeps" / "six.yaml").write_text(SIX_JOBS, encoding="utf-8")
    prose = "The aardvark digs at night and sleeps through the heat of the day; foxes and hyenas move into its holes. "
    (folder / "cal.txt").write_text(prose * 8, encoding="utf-8")
    (folder / "eval.txt").write_text(prose[::-1] * 8, encoding="utf-8")


def _digest(path: Path) -> str:
    if path.is_dir():
        return "a folder that should be gone"
    if path.suffix == ".log":
        return "has times"
    content = path.read_bytes()
    if "tfevents" in path.name:
        content = _events(path)
    elif "tracked" in path.parts:
        content = _receipt(path)
    elif path.parent.name == "runs" and path.suffix == ".json":
        record = json.loads(content)
        del record["costs"], record["checksum"], record["config"]["runtime"]["save_every"]
        content = json.dumps(record).encode()
    elif "store" in path.parts and path.suffix == ".safetensors":
        content = _without_seconds(path)
    return hashlib.sha256(content).hexdigest()


def _events(path: Path) -> bytes:
    """What was sent to TensorBoard: all numbers but costs, and that there are texts, which tell times too."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    values = [value for event in LegacyEventFileLoader(str(path)).Load() for value in event.summary.value]
    told = [(value.tag, value.simple_value) for value in values if not value.tag.startswith("costs/")]
    return json.dumps(told).encode()


def _receipt(path: Path) -> bytes:
    """What it was sent under, and whether that was the record as it is now; the hash in it covers times."""
    record = load_record(path.parents[2] / "runs" / path.name)
    sent = is_sent(TensorBoardTracking(group=None), record, path.parents[2])
    return json.dumps([json.loads(path.read_bytes())["group"], sent]).encode()


def _without_seconds(path: Path) -> bytes:
    """Tensors and notes of a store entry; its checksum covers the seconds that it took too."""
    with safe_open(path, framework="np") as file:
        notes = json.loads(file.metadata()["notes"])
        parts = [file.get_tensor(name).tobytes() for name in sorted(file.keys())]
    notes = {name: note for name, note in notes.items() if name not in COSTS}
    return b"".join([json.dumps(notes).encode(), *parts])


@dataclass
class Whole:
    """The run that nothing happened to.

    Attributes:
        state: of its files.
        seconds: that it took.
        n_bytes: of its results.
        boundaries: between its stages, in order.
        changes: of its files, in order.
    """

    state: dict[str, str]
    seconds: float
    n_bytes: int
    boundaries: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


def run_whole(folder: Path, trial_in: Callable[[Path], Trial]) -> Whole:
    """Run the command without a fault, twice to count its moments, once for its time."""
    found: dict[str, list[str]] = {}
    for name, count in (("boundaries", at_boundaries), ("changes", at_changes)):
        counted = trial_in(folder / name)
        ended = counted.run(KEEP_ALL, sabotage=partial(count, folder / f"{name}.txt", None))
        assert ended.code == 0, ended.said
        found[name] = (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    plain = trial_in(folder / "plain")
    started = time.monotonic()
    ended = plain.run(KEEP_LITTLE)
    seconds = time.monotonic() - started
    assert ended.code == 0, ended.said
    assert plain.state() == counted.state(), "what is kept on the way changes nothing"
    n_bytes = sum(path.stat().st_blocks * 512 for path in plain.results.rglob("*"))
    return Whole(plain.state(), seconds, n_bytes, found["boundaries"], found["changes"])


def note(record_property: Callable[[str, object], None], fault: str, moment: str, outcome: str, lost: int = 0) -> None:
    """Write down a trial for the table at the end."""
    record_property("fault", json.dumps([fault, moment, outcome, lost]))
