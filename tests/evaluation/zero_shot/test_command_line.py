"""The whole way against lm-eval's own command line, which reads an exported checkpoint and the rows by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nowag_exp.cli import main
from nowag_exp.evaluation.zero_shot.tasks import STOCK
from nowag_exp.records.items import load_items
from nowag_exp.records.record import load_records


def test_every_item_equals_that_of_lm_evals_command_line_on_the_exported_checkpoint(
    workplace: Path, data_dir: Path, rows: Any, write: Any
) -> None:
    run = ["model=tiny", "method=magnitude", "checkpoint.save=true", "paths.results=results"]
    run += [
        "evaluation=full_zero_shot",
        f"evaluation.data_dir={data_dir}",
        "evaluation.full_zero_shot.tasks=[arc_easy]",
    ]
    assert main(["run", *run, "evaluation.full_zero_shot.n_fewshot=2"]) == 0
    (checkpoint,) = (path for path in Path("results/checkpoints").iterdir() if path.is_dir() and path.name[0] != ".")
    assert main(["export", str(checkpoint), "--to", "dense", "--out", "dense"]) == 0
    (record,) = load_records(Path("results"))
    items = load_items(Path("results"), record)

    for split in ("train", "test"):
        write(Path(f"{split}.jsonl"), rows["arc_easy"][split])
    task = {
        "include": str(STOCK["arc_easy"].path),
        "task": "made_up",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(workplace / f"{split}.jsonl") for split in ("train", "test")}},
        "validation_split": None,
        "tag": None,
    }
    Path("tasks").mkdir()
    Path("tasks/made_up.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML.
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "made_up", "--num_fewshot", "2"]
    command += ["--model_args", "pretrained=dense,add_bos_token=False,dtype=float32", "--device", "cpu"]
    command += ["--include_path", "tasks", "--output_path", "out", "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(workplace / "hf")}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    (path,) = Path("out").glob("**/samples_made_up_*.jsonl")
    theirs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    (path,) = Path("out").glob("**/results_*.json")
    results = json.loads(path.read_text(encoding="utf-8"))["results"]["made_up"]
    assert len(theirs) == len(items) == len(rows["arc_easy"]["test"])
    for sample, (_, item) in zip(sorted(theirs, key=lambda s: s["doc_id"]), items.iterrows(), strict=True):
        assert item["loglikelihoods"] == pytest.approx([float(a[0]) for a in sample["filtered_resps"]], abs=1e-4)
        assert (item["item"], item["item_hash"]) == (sample["doc_id"], sample["doc_hash"])
        assert (item["acc"], item["acc_norm"]) == (sample["acc"], sample["acc_norm"])
        assert item["target"] == int(sample["target"])
    for metric in (metric for metric in record.metrics if metric.name != "flips"):
        assert metric.protocol == "full_zero_shot/arc_easy"
        assert metric.value == pytest.approx(results[f"{metric.name},none"])
        assert metric.standard_error == pytest.approx(results[f"{metric.name}_stderr,none"])
