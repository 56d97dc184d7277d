"""A W&B that knows no login and writes nothing outside the test's folder, and a record to send."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.execution import run_all
from nowag_exp.experiment import Workbench
from nowag_exp.ledger import Irregularity
from nowag_exp.progress import Reporter
from nowag_exp.records.record import RunRecord, save_record


@pytest.fixture(autouse=True)
def wandb_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder that W&B takes for the user's home; its service ends with the test."""
    home = tmp_path_factory.mktemp("home")
    for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "BASE_URL", "MODE", "ENTITY", "PROJECT", "RUN_GROUP", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home / name))
    yield home
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
        assert not [child for child in psutil.Process().children() if "wandb" in child.name()]


@pytest.fixture
def make(workplace: Path, tiny_run: list[str]):
    """An experiment that takes a second, from overrides."""
    return lambda *overrides: build_experiment(compose([*tiny_run, "method=magnitude", *overrides]))


@pytest.fixture
def results(workplace: Path) -> Path:
    """The results folder, as it is typed."""
    return Path("results")


@pytest.fixture(scope="session")
def finished() -> list[RunRecord]:
    """The record of the one run that all tests share, once there is one."""
    return []


@pytest.fixture
def record(make, results: Path, finished: list[RunRecord]) -> RunRecord:
    """A record that is kept in ``results``: of a real run, with metrics of every kind and a ledger."""
    if not finished:
        (outcome,) = run_all([make()], Workbench(), Reporter())
        assert outcome.record is not None
        finished.append(outcome.record)
    text = finished[0].metrics[0]
    assert text.standard_error is not None
    task = replace(text, name="acc", protocol="paper_zero_shot/arc_easy", value=0.625, standard_error=0.125)
    made = replace(
        finished[0],
        metrics=[
            text,
            replace(text, name="kl", value=0.5, standard_error=None),
            task,
            replace(task, name="acc_norm", value=0.75),
            replace(task, name="flips", value=0.25),
        ],
        irregularities=[Irregularity("dead_columns", "model.layers.0", "of 64 inputs", 2)],
    )
    save_record(results, made)
    return made
