"""Each kind of stored file with a flipped byte, cut in half, or gone: made again and said so, or refused by name."""

import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from nowag_exp.cli import main
from tests.faults.child import once_kept
from tests.faults.damaging import HOWS, damage, damage_entry, made_again, refused_by_name
from tests.faults.trial import KEEP_ALL, N_JOBS, Trial, Whole, note

faults = pytest.mark.faults
Judge = Callable[..., None]
FLIPPED_FIRST = [HOWS[0], *(pytest.param(how, marks=faults) for how in HOWS[1:])]
"""The short form flips a byte."""


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, whole: Whole, processes: object) -> Iterator[Path]:
    """The folder of a sweep that has ended; trials start from a copy of it."""
    folder = tmp_path_factory.mktemp("complete") / "trial"
    ended = Trial(folder, processes).run(KEEP_ALL)
    assert ended.code == 0, ended.said
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def damaged(complete: Path, tmp_path: Path, processes: object) -> Trial:
    """A sweep that has ended, to be damaged."""
    shutil.copytree(complete, tmp_path / "trial")
    return Trial(tmp_path / "trial", processes)


@pytest.mark.parametrize("how", FLIPPED_FIRST)
def test_a_record(damaged: Trial, judge: Judge, how: str) -> None:
    path = min((damaged.results / "runs").glob("*.json"))
    damage(path, how)
    outcome = "made again"
    if how != "deleted":
        refused_by_name(damaged, path, f"{path.name}: is damaged", "remove it and run its experiment again")
        outcome = "refused by name; removed, it is made again"
    finished = damaged.finished()
    damaged.finish()
    judge(damaged, f"record {how}", "after the sweep", outcome, finished)


@pytest.mark.parametrize(
    "kind",
    ["statistics", *(pytest.param(kind, marks=faults) for kind in ("second_moments", "factors", "dense_states"))],
)
@pytest.mark.parametrize("how", FLIPPED_FIRST)
def test_an_entry_of_the_store(damaged: Trial, judge: Judge, kind: str, how: str) -> None:
    damage_entry(damaged, judge, kind, how)


@pytest.mark.parametrize(
    ("kept", "how"),
    [
        pytest.param(kept, how, marks=() if (kept, how) == ("unfinished/*/block-*", "flipped") else faults)
        for kept in ("walks/*", "unfinished/*/block-*", "unfinished/*/activations", "unfinished/*/evaluation.files")
        for how in HOWS
    ],
)
def test_what_a_killed_sweep_kept_of_an_unfinished_job(trial: Trial, judge: Judge, kept: str, how: str) -> None:
    pattern = f"results/store/{kept}.safetensors"
    assert trial.run(KEEP_ALL, sabotage=partial(once_kept, pattern)).code == -signal.SIGKILL
    (path,) = trial.folder.glob(pattern)
    damage(path, how)
    outcome = made_again(trial, how, str(path.relative_to(trial.results / "store")))
    judge(trial, f"unfinished work {how}", kept, outcome)


CHECKPOINT = [
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]
IN_SHORT = {("model.safetensors", "flipped"), ("tokenizer.json", "deleted")}


def test_every_file_of_a_checkpoint_is_damaged_here(complete: Path) -> None:
    folders = [*(complete / "results" / "checkpoints").glob("tiny-*")]
    assert len(folders) == N_JOBS
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == CHECKPOINT


@pytest.mark.parametrize(
    ("name", "how"),
    [pytest.param(name, how, marks=() if (name, how) in IN_SHORT else faults) for name in CHECKPOINT for how in HOWS],
)
def test_a_saved_checkpoint(
    damaged: Trial, judge: Judge, name: str, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = min((damaged.results / "checkpoints").glob(f"*/{name}"))
    damage(path, how)
    assert main(["export", str(path.parent), "--to", "dense", "--out", str(damaged.folder / "out")]) == 2
    refusal = capfd.readouterr().err
    assert refusal.startswith(f"error: {path}: ")
    assert "remove the folder and run its experiment again" in refusal
    assert not (damaged.folder / "out").exists()
    outcome, words = "refused by name when it is read; made again, and says so", "making the checkpoint again"
    if (name, how) == ("model.safetensors", "flipped"):  # No sweep reads all weights that were ever saved.
        assert "6 recorded already, 0 to run" in damaged.finish()
        shutil.rmtree(path.parent)
        outcome, words = "refused by name when it is read; removed, it is made again", ""
    said = damaged.finish()
    assert "5 recorded already, 1 to run" in said
    assert words in said
    judge(damaged, f"checkpoint {how}", name, outcome)


@pytest.mark.parametrize("how", FLIPPED_FIRST)
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        *(
            pytest.param(name, marks=faults)
            for name in ("config.json", "generation_config.json", "tokenizer.json", "source.json")
        ),
    ],
)
def test_a_converted_model(damaged: Trial, judge: Judge, name: str, how: str) -> None:
    (path,) = (damaged.cache / "models").glob(f"*/{name}")
    damage(path, how)
    said = damaged.finish()
    assert f"{path.parent} is damaged: making it again" in said
    judge(damaged, f"converted model {how}", name, "made again, and says so")


@faults
@pytest.mark.parametrize("how", HOWS)
def test_a_table(damaged: Trial, judge: Judge, how: str) -> None:
    for path in (damaged.results / "tables").iterdir():
        damage(path, how)
    finished = damaged.finished()
    damaged.finish()
    judge(damaged, f"table {how}", "after the sweep", "made again", finished)


@faults
@pytest.mark.parametrize("how", HOWS)
def test_a_receipt_of_the_tracker(damaged: Trial, judge: Judge, how: str) -> None:
    path = min((damaged.results / "tracked").rglob("*.json"))
    damage(path, how)
    said = damaged.finish()
    outcome = "sent again"
    if "is damaged; remove it, and the record is sent again" in said:
        path.unlink()
        damaged.finish()
        outcome = "refused by name; removed, it is sent again"
    else:
        assert how != "truncated"
    judge(damaged, f"receipt {how}", "after the sweep", outcome)


@faults
@pytest.mark.parametrize("how", HOWS)
def test_a_shard_of_the_users_own_model(
    damaged: Trial, record_property: Callable[[str, object], None], capfd: pytest.CaptureFixture[str], how: str
) -> None:
    (converted,) = (damaged.cache / "models").glob("tiny-*")
    own = damaged.folder / "own"
    shutil.copytree(converted, own)
    local = ["model=local", f"model.path={own}"]
    assert damaged.run(KEEP_ALL, *local).code == 0
    damage(own / "model.safetensors", how)
    ended = damaged.run(KEEP_ALL, *local)
    if how == "flipped":  # It is another model now, and nobody can know which was meant: other fingerprints, all anew.
        assert ended.code == 0, ended.said
        assert "0 recorded already, 6 to run" in ended.said
        outcome = "another model: all records anew, none taken for the old one's"
    else:
        assert ended.code == 2, ended.said
        assert str(own) in ended.said
        assert "Traceback" not in ended.said
        outcome = "refused by name"
    note(record_property, f"model's shard {how}", "between two sweeps", outcome)
