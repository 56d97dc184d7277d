"""Fixtures shared by all tests: a tiny model and texts in a temporary cache, so that nothing is downloaded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nowag_exp.models import CausalLM

# Before transformers or huggingface_hub are imported: a test that reaches for the hub must fail, not wait.
os.environ["HF_HUB_OFFLINE"] = "1"

PROSE = (
    "The aardvark digs at night and sleeps through the heat of the day. Its tongue is long, its teeth have no enamel, "
    "and its ears can be folded flat to keep out the dust. Farmers dislike the holes, foxes and hyenas move into them. "
)


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that all tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workplace(tmp_path: Path, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with two texts, and the shared cache."""
    monkeypatch.setenv("NOWAG_EXP_CACHE", str(tiny_cache))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cal.txt").write_text(PROSE * 8, encoding="utf-8")
    (tmp_path / "eval.txt").write_text(PROSE[::-1] * 4, encoding="utf-8")
    return tmp_path


@pytest.fixture
def model(workplace: Path) -> "CausalLM":
    """The tiny model, loaded."""
    # Not at the top: the shape checks are put in when a module is first imported, after this file.
    import torch

    from nowag_exp.compose import compose
    from nowag_exp.config import build
    from nowag_exp.models import ModelSource

    return build(compose(["model=tiny"])["model"], "model", ModelSource).load(torch.device("cpu"))


TINY_RUN = [
    "model=tiny",
    "calibration=files",
    "calibration.path=cal.txt",
    "evaluation=files",
    "evaluation.files.path=eval.txt",
    "evaluation.files.n_windows=4",
]


@pytest.fixture
def tiny_run() -> list[str]:
    """Overrides of an experiment that takes a second in ``workplace``."""
    return list(TINY_RUN)
