"""The command as a process: killed, stopped and started twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nowag_exp.cli import main

SETTINGS = ["runtime.threads=1", "runtime.save_every=0", "evaluation.fidelity=false"]


@pytest.fixture
def command(workplace: Path, tiny_run: list[str]) -> list[str]:
    """``sweep demo``, two methods, two patterns: with Wanda a block depends on those before it, with NoWag-P not."""
    return ["sweep", "demo", "method=wanda,nowag_p", *tiny_run, *SETTINGS]


@pytest.fixture
def complete(command: list[str], capfd: pytest.CaptureFixture[str]):
    """Run it to its end in this process, which has everything imported; returns what it printed."""

    def _complete(results: str) -> str:
        capfd.readouterr()
        assert main([*command, f"paths.results={results}"]) == 0
        return "".join(capfd.readouterr())

    return _complete


@pytest.fixture
def start(command: list[str]):
    """Start it in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def _start(results: str, *overrides: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "nowag_exp", *command, *overrides, f"paths.results={results}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield _start
    for process in started:
        if process.returncode is None:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for_files(folder: Path, n: int, process: subprocess.Popen[str]) -> None:
    """Until so many whole files were written."""
    while process.poll() is None and sum(path.suffix in {".json", ".safetensors"} for path in folder.rglob("*")) < n:
        time.sleep(0.01)


def records(folder: Path) -> dict[str, object]:
    found = {}
    for path in sorted((folder / "runs").glob("*.json")):
        content = json.loads(path.read_text())
        del content["costs"], content["checksum"]
        del content["config"]["paths"]
        found[path.name] = content
    return found


@pytest.mark.parametrize(
    ("executor", "moments"),
    [(["executor=inline"], (1, 2, 3)), (["executor=processes", "executor.workers=2"], (2,))],
    ids=["inline, three times", "processes"],
)
def test_a_killed_sweep_ends_with_the_records_of_an_uninterrupted_one(
    start, complete, workplace: Path, executor: list[str], moments: tuple[int, ...]
) -> None:
    complete("whole")
    expected = records(workplace / "whole")
    assert len(expected) == 4
    before = 0
    for n_files in moments:
        process = start("killed", *executor)
        wait_for_files(workplace / "killed", n_files, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was killed before it ended"
        now = len(records(workplace / "killed"))
        assert before <= now < 4
        before = now
    output = complete("killed")
    assert records(workplace / "killed") == expected
    if executor == ["executor=inline"]:  # Others finish their block when their parent is gone.
        assert f"{before} recorded already" in output
    assert not list((workplace / "killed" / "store").glob("unfinished/*"))


@pytest.mark.parametrize("executor", [["executor=inline"], ["executor=processes", "executor.workers=2"]], ids=str)
def test_ctrl_c_stops_after_the_block_says_how_to_go_on_and_leaves_nothing_half_written(
    start, complete, workplace: Path, executor: list[str]
) -> None:
    process = start("results", *executor)
    wait_for_files(workplace / "results", 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "stopping after the current block; once more stops at once" in output
    done = len(records(workplace / "results"))
    assert f"stopped: {done} of 4 experiments are recorded" in output
    assert "interrupted; the same command goes on where this stopped" in output
    assert "Traceback" not in output
    assert not list((workplace / "results").rglob("*.tmp"))
    output = complete("results")
    assert f"{done} recorded already" in output
    assert len(records(workplace / "results")) == 4


def test_two_sweeps_on_one_store_share_the_work(start, workplace: Path) -> None:
    both = [start("results"), start("results")]
    outputs = [finish(process) for process in both]
    logs = "".join(path.read_text() for path in (workplace / "results" / "logs").glob("*.log"))
    assert sorted(re.findall(r"kept \S+/(\w+)\.json", logs)) == sorted(
        path.stem for path in (workplace / "results" / "runs").glob("*.json")
    ), "each experiment was run once"
    assert logs.count("calibration: blocks: 0 of") == 1
    tables = [output[output.index("tiny\n") :] for output in outputs]
    assert tables[0] == tables[1]


def test_quiet_prints_the_table_and_nothing_else(workplace: Path, tiny_run: list[str]) -> None:
    command = [sys.executable, "-m", "nowag_exp", "sweep", "demo", "--quiet", *tiny_run, *SETTINGS]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "nowag_p" in done.stdout
