"""Hundreds of experiments in one sweep, thousands of records in one table: ``make test-slow``."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nowag_exp.calibration import CompressedLinear
from nowag_exp.cli import main
from nowag_exp.records.record import RunRecord, save_record

pytestmark = pytest.mark.slow

N_EXPERIMENTS, WARM = 500, 50
N_METHODS = 50

PROGRAM = """
import json, sys
import psutil
from nowag_exp.cli import main
from nowag_exp.execution import driver

process, seen, plain = psutil.Process(), [], driver.say_outcome

def say_outcome(*arguments):
    plain(*arguments)
    seen.append([process.memory_info().rss, process.num_fds(), process.num_threads()])

driver.say_outcome = say_outcome
code = main(sys.argv[1:])
open("seen.json", "w").write(json.dumps(seen))
sys.exit(code)
"""


def test_five_hundred_experiments_leave_the_driver_as_large_as_fifty(workplace: Path, tiny_run: list[str]) -> None:
    sweep = [
        "sweep",
        "demo",
        *tiny_run,
        "method=magnitude",
        "method.pattern=unstructured",
        "evaluation.files.n_windows=1",
    ]
    sparsities = ",".join(f"{number / 1000:.3f}" for number in range(1, N_EXPERIMENTS + 1))
    command = [sys.executable, "-c", PROGRAM, *sweep, f"method.sparsity={sparsities}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(Path("seen.json").read_text(encoding="utf-8"))
    assert len(seen) == N_EXPERIMENTS
    resident, handles, threads = zip(*seen, strict=True)
    print(
        f"resident: {resident[WARM - 1] / 1e6:.0f} MB after {WARM}, {resident[-1] / 1e6:.0f} MB after {N_EXPERIMENTS}"
    )
    assert resident[-1] < 1.05 * resident[WARM - 1]
    assert handles[-1] == handles[WARM - 1]
    assert threads[-1] == threads[WARM - 1]
    started = time.monotonic()
    assert main(["table"]) == 0
    print(f"table of {N_EXPERIMENTS} records: {time.monotonic() - started:.1f} s")


def test_the_table_of_twenty_times_as_many_records_takes_not_much_more_than_twenty_times_as_long(
    workplace: Path, make_record: Callable[..., RunRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    """Records as large as those of Llama-2-7B: 224 linears, 166 windows."""
    name = "model.layers.{}.self_attn.{}_proj"
    linears = [
        CompressedLinear(name.format(block, part), (4096, 4096), 8_388_608, "sparse", 150_994_944, 1 / (1 + block))
        for block in range(32)
        for part in "qkvogud"
    ]
    seconds = []
    for n in (1, 500, 10_000):  # The first imports what a table needs.
        results = workplace / str(n)
        for number in range(n):
            losses = [2 + number / n, 3.0, *(2.5 + number % 7 + window / 3000 for window in range(164))]
            record = make_record(f"{number:016x}", f"method{number % N_METHODS}", losses, seed=number // N_METHODS)
            save_record(results, replace(record, compression=replace(record.compression, linears=linears)))
        started = time.monotonic()
        assert main(["table", f"paths.results={results}"]) == 0
        seconds.append(time.monotonic() - started)
        assert len(re.findall(r"^method\d+ .*", capsys.readouterr().out, re.MULTILINE)) == min(n, N_METHODS), (
            "a row each"
        )
        shutil.rmtree(results)
    with capsys.disabled():
        print(f"\ntables of 500 and 10,000 records: {seconds[1]:.1f} and {seconds[2]:.1f} s")
    assert seconds[2] < 1.5 * 20 * seconds[1]
