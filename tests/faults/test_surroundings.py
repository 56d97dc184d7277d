"""Other processes, the disk, the clock, the tracker and memory: what they do to a sweep, it survives or says."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import psutil
import pytest

from tests.faults.child import at_boundaries, clock_set_back, memory_ends, tracker_fails, tracker_hangs
from tests.faults.trial import KEEP_ALL, KEEP_LITTLE, N_JOBS, N_SPARSEGPT, Running, Trial, Whole
from tests.small_disk import remount, small_disk

faults = pytest.mark.faults
Judge = Callable[..., None]


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=faults)])
def test_several_processes_on_one_store(trial: Trial, judge: Judge, n: int) -> None:
    running = [trial.start(KEEP_ALL) for _ in range(n)]
    for each in running:
        ended = each.wait()
        assert ended.code == 0, ended.said
    logs = "".join(path.read_text(encoding="utf-8") for path in (trial.results / "logs").glob("*.log"))
    assert logs.count(": kept ") == N_JOBS, "each job was done once"
    judge(trial, f"{n} processes on one store", "all along", "share the work")


@faults
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_clock_is_set_back(trial: Trial, judge: Judge, whole: Whole, share: float) -> None:
    moment = int(share * len(whole.boundaries))
    ended = trial.run(KEEP_ALL, sabotage=partial(clock_set_back, trial.folder / "moments.txt", moment))
    assert ended.code == 0, ended.said
    judge(trial, "clock set back a day", "at a boundary", "goes on")


@faults
@pytest.mark.parametrize(
    ("sabotage", "reason"), [(tracker_fails, "ConnectionError"), (tracker_hangs, "not done after")]
)
def test_a_tracker_that_refuses_or_hangs(trial: Trial, judge: Judge, sabotage: Callable[[], None], reason: str) -> None:
    ended = trial.run(KEEP_ALL, sabotage=sabotage)
    assert ended.code == 0, ended.said
    assert ended.said.count("recorded, but not sent to tensorboard: ") == N_JOBS
    assert reason in ended.said
    assert ended.said.count("tracking_failed:1") == N_JOBS, "the table says it"
    assert "tracking_failed" not in trial.finish()
    judge(trial, f"tracker {'hangs' if sabotage is tracker_hangs else 'refuses'}", "all along", "sent by the next run")


def test_memory_ends_in_one_job(trial: Trial, judge: Judge) -> None:
    ended = trial.run(KEEP_ALL, sabotage=memory_ends)
    assert ended.code == 1, ended.said
    assert ended.said.count("FAILED") == N_SPARSEGPT
    assert "Traceback" not in ended.said
    assert f"{N_JOBS - N_SPARSEGPT} of this sweep" in ended.said
    finished = trial.finished()
    trial.finish()
    judge(trial, "memory ends", "in three jobs of six", "they alone fail; the next run makes them", finished)


@faults
@pytest.mark.parametrize(
    ("executor", "code", "outcome"),
    [
        (["executor=processes", "executor.workers=1"], 1, "its job fails by name; the next run makes it"),
        (["executor=ray"], 0, "Ray starts it again, and it goes on"),
    ],
    ids=["processes", "ray"],
)
def test_a_worker_is_killed_in_the_middle_of_its_job(
    trial: Trial, judge: Judge, executor: list[str], code: int, outcome: str
) -> None:
    running = trial.start(KEEP_ALL, *executor)
    wait_for_a_block(trial, running)
    worker_of(running.process.pid).kill()  # It has further blocks to do, and a checkpoint to write.
    ended = running.wait()
    assert ended.code == code, ended.said
    assert ended.said.count("killed (SIGKILL), by the system if memory ran out") == (2 if code else 0), "and at the end"
    finished = trial.finished()
    trial.finish()
    judge(trial, f"worker of {executor[0].partition('=')[2]} SIGKILLed", "in a job", outcome, finished)


def wait_for_a_block(trial: Trial, running: Running) -> None:
    """Until a job is in the middle of its blocks."""
    while not list((trial.results / "store" / "unfinished").glob("*/block-*.safetensors")):
        assert running.process.is_alive(), running.wait().said
        time.sleep(0.005)


def worker_of(starter: int) -> psutil.Process:
    """The process that does the present job, of those that another one started."""
    for process in psutil.Process(starter).children(recursive=True):
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "nowag_exp.execution.worker" in command or command.startswith("ray::run_job"):
                return process
    raise AssertionError("nobody does the job")


@faults
def test_a_node_of_the_cluster_is_lost_in_the_middle_of_its_job(trial: Trial, judge: Judge) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        running = trial.start(KEEP_ALL, "executor=ray", f"executor.address='{cluster.address}'")
        wait_for_a_block(trial, running)
        raylet = worker_of(os.getpid()).parent()
        for process in [raylet, *raylet.children(recursive=True)]:  # Without power, all of it ends at once.
            process.kill()
        cluster.add_node(num_cpus=1)
        ended = running.wait()
    finally:
        cluster.shutdown()
    assert ended.code == 0, ended.said
    records = [json.loads(path.read_bytes()) for path in (trial.results / "runs").glob("*.json")]
    assert sum(record["costs"]["resumed"] for record in records) == 1, "what the lost node had done is taken over"
    finished = trial.finished()
    trial.finish()
    judge(trial, "node of a Ray cluster lost", "in a job", "another takes its job over where it stopped", finished)


@pytest.fixture
def disk(trial: Trial) -> Iterator[Path]:
    """The results folder of the trial is a disk of its own."""
    with small_disk(trial.results) as folder:
        yield folder


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=faults) for seed in range(1, 10))])
def test_the_disk_is_full(trial: Trial, judge: Judge, whole: Whole, disk: Path, seed: int) -> None:
    remount(disk, f"size={int(Random(seed).uniform(0.02, 0.98) * whole.n_bytes)}")
    ended = trial.run(KEEP_ALL)
    assert ended.code in {1, 2}, ended.said
    assert "No space left on device" in ended.said
    assert "make room, or set paths.results=DIR" in ended.said
    assert "Traceback" not in ended.said
    finished = trial.finished()
    remount(disk, f"size={2 * whole.n_bytes}")
    trial.finish()
    judge(trial, "disk full", "at a random size", "says what it needs; with room, continues", finished)


@faults
def test_the_store_is_read_only(trial: Trial, judge: Judge, whole: Whole, disk: Path) -> None:
    remount(disk, f"size={2 * whole.n_bytes}")
    trial.run(KEEP_ALL, sabotage=partial(at_boundaries, trial.folder / "moments.txt", len(whole.boundaries) // 2))
    finished = trial.finished()
    remount(disk, "ro")
    refused = trial.run(KEEP_ALL)
    assert refused.code == 2, refused.said
    assert "results/checkpoints: cannot be written to (" in refused.said
    assert "; set paths.results=DIR" in refused.said
    remount(disk, "rw")
    trial.finish(KEEP_LITTLE)
    judge(trial, "store read-only", "half way", "refused by name; writable, it continues", finished)


def test_no_fault_leaves_nothing_to_note(trial: Trial, judge: Judge) -> None:
    """The control: the comparison itself finds two runs equal."""
    trial.finish()
    finished = trial.finished()
    assert trial.run(KEEP_ALL).code == 0
    judge(trial, "none", "never", "nothing is made again", finished)


def test_what_differs_is_found(trial: Trial, whole: Whole) -> None:
    """The other control: the comparison sees a byte, a file less and a file more."""
    assert trial.run(KEEP_ALL).code == 0
    finished = trial.finished()
    flipped, removed, *_ = sorted((trial.results / "checkpoints").rglob("model.safetensors"))
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"\x55")
    removed.unlink()
    more = trial.results / "store" / "more"
    more.write_text("")
    record = min((trial.results / "runs").glob("*.json"))
    record.write_bytes(record.read_bytes())
    problems = trial.compare(whole, finished)
    assert {kind: [Path(name).parent.name for name in names] for kind, names in problems.items()} == {
        "lost": [removed.parent.name],
        "differ": [flipped.parent.name],
        "left behind": ["store"],
        "made again": ["runs"],
    }
