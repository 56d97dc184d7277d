"""What a number was made with: versions, commit, machine; and what each stage cost."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import nowag_exp
from nowag_exp.records.record import Costs, StageCost

RESULTS_COME_FROM = ("nowag_exp", "conf", "sweeps", "pyproject.toml")
PACKAGE = Path(nowag_exp.__file__).parent
LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "hydra-core",
    "omegaconf",
    "lm_eval",
    "datasets",
)


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, commit and machine. Names nobody: no user, host or path."""
    return {
        "nowag_exp": nowag_exp.__version__,
        "git": git_state(PACKAGE),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "device": str(device),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
        "threads": torch.get_num_threads(),
    }


@functools.cache  # The state when the process began: it is that code which runs.
def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether what runs differs from it; ``None`` if the package is not run from a checkout.

    New files count, in the folders that a result can come from: a method that git does not know yet is not clean.
    "unknown" if git is missing or refuses to answer.
    """
    if not (folder.parent / ".git").exists():
        return None
    try:
        commit = _git(folder.parent, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder.parent, "status", "--porcelain", "--", *RESULTS_COME_FROM))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": "unknown"}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


class CostMeter:
    """Seconds and peak memory of the stages of one experiment."""

    def __init__(self) -> None:
        self._started_at = _now()
        self.stages: dict[str, StageCost] = {}
        self._earlier: dict[str, float] = {}
        self._resumed = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the body under ``name``."""
        _reset_peaks()
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start + self._earlier.get(name, 0.0)
        self.stages[name] = StageCost(round(seconds, 3), _peak_resident(), _peak_gpu())

    def take_over(self, name: str, seconds: float) -> None:
        """Count the work of an interrupted run of this experiment, which need not be done again; within its stage."""
        self._resumed = True
        self.add_earlier(name, seconds)

    def add_earlier(self, name: str, seconds: float) -> None:
        """Count work that was done before, for this experiment or another; called within its stage."""
        self._earlier[name] = self._earlier.get(name, 0.0) + seconds

    def finish(self) -> Costs:
        """All stages so far."""
        return Costs(self._started_at, _now(), dict(self.stages), resumed=self._resumed)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _reset_peaks() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: sets VmHWM back to the present size
    except OSError:
        pass  # _peak_resident then gives the peak of the whole process, or None where there is no /proc.


def _peak_resident() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _peak_gpu() -> int | None:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
