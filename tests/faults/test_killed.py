"""A sweep that is killed at any moment is, after the same command again, the sweep that was left alone."""

import os
import re
import signal
import time
from random import Random

import pytest

from tests.faults.child import at_boundaries, at_changes
from tests.faults.killing import Judge, NewTrial, first_changes, kill_at
from tests.faults.trial import KEEP_ALL, KEEP_LITTLE, Trial, Whole

N_RANDOM, N_RANDOM_SHORT = 50, 2
SHARES = 12
"""Tests that the boundaries and changes are divided among, so that they run side by side."""

faults = pytest.mark.faults


@pytest.mark.parametrize("share", [pytest.param(share, marks=faults) for share in range(SHARES)])
def test_killed_at_every_boundary_between_stages(new_trial: NewTrial, judge: Judge, whole: Whole, share: int) -> None:
    for number in range(share, len(whole.boundaries), SHARES):
        moment = re.sub(r"^tiny.*", "a job", whole.boundaries[number].rpartition(": ")[0])
        kill_at(new_trial(), judge, at_boundaries, number, moment, "SIGKILL at a boundary", KEEP_ALL)


@pytest.mark.parametrize("share", [pytest.param(share, marks=faults) for share in range(SHARES)])
def test_killed_before_every_change_of_a_file(new_trial: NewTrial, judge: Judge, whole: Whole, share: int) -> None:
    for number, moment in first_changes(whole)[share::SHARES]:
        kill_at(new_trial(), judge, at_changes, number, moment, "SIGKILL before a change", KEEP_ALL)


@pytest.mark.parametrize(
    ("how", "seed"),
    [
        *((signal.SIGKILL, seed) for seed in range(N_RANDOM_SHORT)),
        *(pytest.param(signal.SIGKILL, seed, marks=faults) for seed in range(N_RANDOM_SHORT, N_RANDOM)),
        # Signals that the program handles.
        *(pytest.param(how, seed, marks=faults) for how in (signal.SIGTERM, signal.SIGINT) for seed in range(20)),
    ],
)
def test_ended_at_a_random_moment(trial: Trial, judge: Judge, whole: Whole, how: signal.Signals, seed: int) -> None:
    keep = (KEEP_ALL, KEEP_LITTLE)[seed % 2]
    running = trial.start(keep)
    time.sleep(Random(seed).uniform(0, whole.seconds))
    if running.process.is_alive():
        os.kill(running.process.pid, how)
    ended = running.wait()
    assert ended.code in {0, -how, 130 if how != signal.SIGKILL else 0}, ended.said
    if ended.code == 130:
        assert "Traceback" not in ended.said
    finished = trial.finished()
    trial.finish(keep)
    judge(trial, how.name, "random", "continues", finished)
