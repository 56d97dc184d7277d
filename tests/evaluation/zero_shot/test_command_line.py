"""The whole way against lm-eval's own: its command line, a folder of the model, and its own reading of the rows."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nowag_exp.evaluation.zero_shot import ZeroShot, score
from nowag_exp.evaluation.zero_shot.tasks import STOCK
from nowag_exp.models import CausalLM


def test_every_item_equals_that_of_lm_evals_command_line(
    suite: Callable[..., ZeroShot], model: CausalLM, tokenizer_folder: Path, rows: Any, tmp_path: Path, write: Any
) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.jsonl", rows["arc_easy"][split])
    task = {
        "include": str(STOCK["arc_easy"].path),
        "task": "made_up",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}},
        "validation_split": None,
        "tag": None,
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/made_up.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML.
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "made_up", "--num_fewshot", "2"]
    command += ["--model_args", f"pretrained={tokenizer_folder},add_bos_token=False,dtype=float32", "--device", "cpu"]
    command += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    (path,) = tmp_path.glob("out/**/samples_made_up_*.jsonl")
    theirs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    (path,) = tmp_path.glob("out/**/results_*.json")
    results = json.loads(path.read_text(encoding="utf-8"))["results"]["made_up"]

    (outcome,) = score(model, tokenizer_folder, [suite(tasks=["arc_easy"], n_fewshot=2, bos="none")], 300, lambda: None)
    assert len(theirs) == len(outcome.items) == len(rows["arc_easy"]["test"])
    for sample, (_, item) in zip(sorted(theirs, key=lambda s: s["doc_id"]), outcome.items.iterrows(), strict=True):
        assert item["loglikelihoods"] == pytest.approx([float(a[0]) for a in sample["filtered_resps"]], abs=1e-4)
        assert (item["item"], item["item_hash"]) == (sample["doc_id"], sample["doc_hash"])
        assert (item["acc"], item["acc_norm"]) == (sample["acc"], sample["acc_norm"])
        assert item["target"] == int(sample["target"])
    for metric in outcome.metrics[:2]:
        assert metric.protocol == "full_zero_shot/arc_easy"
        assert metric.value == pytest.approx(results[f"{metric.name},none"])
        assert metric.standard_error == pytest.approx(results[f"{metric.name}_stderr,none"])
