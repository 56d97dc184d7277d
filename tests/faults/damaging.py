"""Damaging a file that a run left, and running it again."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.trial import KEEP_ALL, Trial

HOWS = ("flipped", "truncated", "deleted")
"""What :func:`damage` can do."""


def damage(path: Path, how: str) -> None:
    """What a bad disk or a careless hand does to a file."""
    content = path.read_bytes()
    path.unlink()
    if how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])


def refused_by_name(trial: Trial, path: Path, *words: str) -> None:
    """Run it, which must refuse the damaged file and say the way out; then take that, and remove the file."""
    ended = trial.run(KEEP_ALL)
    assert ended.code == 2, ended.said
    assert all(part in ended.said for part in words), ended.said
    path.unlink()


def damage_entry(trial: Trial, judge: Callable[..., None], kind: str, how: str) -> None:
    """Damage an entry of the store of a run that has ended, and let it be read again."""
    path = min((trial.results / "store" / kind).glob("*.safetensors"))
    shutil.rmtree(trial.results / "runs")  # Otherwise nobody would read it.
    damage(path, how)
    outcome = made_again(trial, how, f"{kind}/{path.name}")
    judge(trial, f"store entry {how}", kind, outcome)


def made_again(trial: Trial, how: str, where: str) -> str:
    """Run it again after an entry of the store was damaged, which a run then must have read; returns what happened."""
    said = trial.finish()
    if how == "deleted":
        return "made again"
    assert trial.corrupted() == [where]
    assert said.count("corrupted_store_entry:1") == 1, "the table says it too"
    shutil.rmtree(trial.results / "runs")  # With records of their own the ledgers are those of the whole run.
    trial.finish()
    return "made again; ledger and table say so"
