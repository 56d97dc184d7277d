"""The same experiment gives the same bytes on one thread and on two, but for two methods."""

import json
import shutil
from pathlib import Path

import pytest

from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.execution import run_all
from nowag_exp.experiment import Workbench
from nowag_exp.layout import groups
from nowag_exp.progress import Reporter

WIDE = [
    "model.hidden_size=256",
    "model.intermediate_size=768",
    "calibration.n_sequences=4",
    "evaluation.files.n_windows=2",
]
"""So that matrix products are large enough to be divided among threads."""

SUMMED_OTHERWISE = {"gptq", "sparsegpt"}
"""The exception: a Hessian is a matrix product, which a library divides among threads as it likes. Its last bits decide
which of two near-ties goes, and what is compensated later follows; perplexities of two divisions differ by up to 2%."""

SMALL_CODEBOOK = ["method.d=4", "method.bits=2", "method.iterations=5"]


@pytest.mark.parametrize("method", sorted(groups()["method"]))
def test_the_number_of_threads_changes_no_byte(method: str, workplace: Path, tiny_run: list[str]) -> None:
    settings = [f"method={method}", *(SMALL_CODEBOOK if method.endswith("_vq") else []), "checkpoint.save=true"]
    if method in ("gptq", "rtn"):
        settings += ["method.group_size=64"]
    found = []
    for n_threads in (1, 2):
        experiment = build_experiment(compose([*tiny_run, *WIDE, *settings, f"runtime.threads={n_threads}"]))
        (outcome,) = run_all([experiment], Workbench(), Reporter())
        assert outcome.record is not None, outcome.failure
        record = json.loads(outcome.record.to_json())
        checkpoint = {path.name: path.read_bytes() for path in experiment.checkpoint_folder.iterdir()}
        found.append((record["metrics"], record["irregularities"], checkpoint))
        shutil.rmtree("results")
    one, two = found
    if method in SUMMED_OTHERWISE:
        values = [[metric["value"] for metric in each[0] if metric["name"] == "perplexity"] for each in found]
        assert values[0] == pytest.approx(values[1], rel=0.02)
        return
    assert one[2] == two[2]
    assert one[:2] == two[:2]
