"""Memory of a streamed run, held to a ceiling by the operating system: ``make test-slow``."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory import WIDTH, write_model
from nowag_exp.models import Architecture

resource = pytest.importorskip("resource", reason="not on Windows, which has no such ceiling")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds the memory of a process to a ceiling"),
]

GB = 1_000_000_000
CEILING = 4 * GB

LLAMA_3B = Architecture(
    hidden_size=3072,
    intermediate_size=8192,
    n_blocks=28,
    n_heads=24,
    n_kv_heads=8,
    head_dim=128,
    vocabulary=128256,
    tied=False,
)
"""The widths and depth of Llama-3.2-3B."""

MEMORY_GROUPS = ((Path("/sys/fs/cgroup"), "memory.max"), (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"))
"""Where a control group is made, versions 2 and 1, and the file of its limit."""


@contextmanager
def ceiling(n_bytes: int) -> Iterator[list[str]]:
    """Give the beginning of a command line whose process may take so much memory, and is killed beyond that.

    By a control group if one can be made, which counts what is resident. Otherwise by its address space, which also
    counts what is mapped: that of a process which has imported everything, as it maps more than it touches.
    """
    for root, name in MEMORY_GROUPS:
        if not (root / "cgroup.procs").exists():  # Not that version, or no control groups at all.
            continue
        group = root / f"nowag_exp-{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(n_bytes), encoding="ascii")
            with suppress(OSError):  # Version 2 alone; without swap there is nothing to limit.
                (group / "memory.swap.max").write_text("0", encoding="ascii")
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        join = f"import os, sys; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
        try:
            yield [sys.executable, "-c", f"{join}; os.execv(sys.argv[1], sys.argv[1:])"]
        finally:
            group.rmdir()
        return
    empty = "import torch, transformers, numba; print(open('/proc/self/statm').read().split()[0])"
    pages = int(subprocess.run([sys.executable, "-c", empty], capture_output=True, check=True).stdout)
    limit = n_bytes + pages * resource.getpagesize()
    join = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))"
    yield [sys.executable, "-c", f"{join}; os.execv(sys.argv[1], sys.argv[1:])"]


def run(
    model: Path, results: Path, *overrides: str, within: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    text = model.parent / "text.txt"
    text.write_text("A sentence of no meaning, again and again. " * 300, encoding="utf-8")
    command = [sys.executable, "-m", "nowag_exp", "run", "model=local", f"model.path={model}", "method=nowag_p"]
    command += [
        "calibration=files",
        f"calibration.path={text}",
        "calibration.n_sequences=4",
        "model.context_length=256",
    ]
    command += ["evaluation=files", f"evaluation.files.path={text}", "evaluation.files.n_windows=2"]
    command += ["checkpoint.save=true", f"paths.results={results}", *overrides]
    return subprocess.run([*(within or []), *command], capture_output=True, text=True, check=False)


def peak(results: Path) -> int:
    """Most that was resident in any stage."""
    (path,) = (results / "runs").glob("*.json")
    costs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["costs"]
    return max(stage["peak_bytes"] for stage in costs["stages"].values())


def test_a_3b_is_compressed_in_4_gb(tmp_path: Path) -> None:
    write_model(tmp_path / "model", LLAMA_3B.n_blocks, LLAMA_3B)
    assert sum(path.stat().st_size for path in (tmp_path / "model").iterdir()) > 7 * GB
    with ceiling(CEILING) as within:
        loaded = run(tmp_path / "model", tmp_path / "loaded", "runtime.offload=never", within=within)
        # The ceiling holds: what is loaded does not fit under it, and is killed or refused memory.
        assert loaded.returncode == -signal.SIGKILL or "memory" in loaded.stderr, loaded.stderr
        done = run(tmp_path / "model", tmp_path / "streamed", "runtime.offload=always", within=within)
    assert done.returncode == 0, done.stderr
    assert peak(tmp_path / "streamed") < CEILING
    (record,) = (tmp_path / "streamed" / "runs").glob("*.json")
    compression = json.loads(record.read_text(encoding="utf-8"))["compression"]
    assert compression["sparsity"] == pytest.approx(0.5, abs=1e-6)
    assert compression["n_weights"] == LLAMA_3B.n_blocks * LLAMA_3B.block_weights
    assert not (tmp_path / "streamed" / "store" / "unfinished").exists() or not list(
        (tmp_path / "streamed" / "store" / "unfinished").iterdir()
    )


def test_memory_does_not_grow_with_depth(tmp_path: Path) -> None:
    peaks = []
    # Of 45 million weights each: checkpoints of 0.5 and 5.4 GB. With fewer blocks, the next one is seldom read at the
    # moment when the present one takes most.
    for depth in (6, 60):
        write_model(tmp_path / f"model{depth}", depth, WIDTH)
        done = run(tmp_path / f"model{depth}", tmp_path / f"results{depth}", "runtime.offload=always")
        assert done.returncode == 0, done.stderr
        peaks.append(peak(tmp_path / f"results{depth}"))
    assert peaks[1] < 1.1 * peaks[0], peaks
