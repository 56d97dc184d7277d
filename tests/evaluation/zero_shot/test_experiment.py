"""Suites inside whole experiments: what is kept, shared, and held against the dense model."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from nowag_exp import measure as module
from nowag_exp.cli import main
from nowag_exp.compose import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.experiment import Workbench, check, recorded, run
from nowag_exp.models import CausalLM
from nowag_exp.progress import Reporter
from nowag_exp.records.items import items_path, load_items
from nowag_exp.records.record import RunRecord

RESULTS = Path("results")
Make = Callable[..., Experiment]


@pytest.fixture
def make(workplace: Path, data_dir: Path) -> Make:
    base = ["model=tiny", "evaluation=[files,full_zero_shot]", "evaluation.files.path=eval.txt"]
    base += [f"evaluation.data_dir={data_dir}", "evaluation.files.n_windows=2"]
    base += ["calibration=files", "calibration.path=cal.txt"]
    return lambda *overrides: build_experiment(compose([*base, *overrides]))


def run_one(experiment: Experiment) -> RunRecord:
    bench = Workbench()
    check(experiment, bench)
    return run(experiment, bench, Reporter())


def test_the_dense_model_answers_once_for_all_that_are_held_against_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    score = module.score
    monkeypatch.setattr(module, "score", lambda model, *rest: scored.append(len(model._changed)) or score(model, *rest))
    records = [run_one(make(f"method={method}")) for method in ("magnitude", "dense", "nowag_p")]
    assert [bool(changed) for changed in scored] == [False, True, True]
    items = [load_items(RESULTS, record) for record in records]
    dense = items[1]
    for record, compressed in ((records[0], items[0]), (records[2], items[2])):
        lost = int(((dense["acc"] == 1) & (compressed["acc"] == 0)).sum())
        won = int(((dense["acc"] == 0) & (compressed["acc"] == 1)).sum())
        (flips,) = [metric for metric in record.metrics if metric.name == "flips"]
        assert (flips.details["lost"], flips.details["won"]) == (lost, won)
        assert flips.value == pytest.approx((lost + won) / len(dense))
        assert compressed["flips"].sum() == lost + won
    assert "flips" not in {metric.name for metric in records[1].metrics}
    # What came from the store is what the dense model answers when it is asked itself.
    alone = run_one(make("method=dense", "evaluation.fidelity=false", "paths.results=alone"))
    columns = ["task", "item", "item_hash", "acc", "loglikelihoods"]
    pd.testing.assert_frame_equal(load_items(Path("alone"), alone)[columns], dense[columns])
    assert [m for m in records[1].metrics if m.name == "acc"] == [m for m in alone.metrics if m.name == "acc"]


def test_a_records_accuracies_are_the_means_of_its_items(make: Make) -> None:
    record = run_one(make("method=magnitude"))
    items = load_items(RESULTS, record)
    assert set(items["suite"]) == {"full_zero_shot"}
    for metric in record.metrics:
        if metric.name in ("acc", "acc_norm") and not metric.protocol.endswith("/mean"):
            own = items[items["task"] == metric.protocol.partition("/")[2]]
            assert metric.value == pytest.approx(own[metric.name].mean())
            assert metric.n == len(own)


def test_items_in_tokens_that_the_model_does_not_have_are_refused_before_weights_are_loaded(
    make: Make, workplace: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(make().model.folder(), workplace / "copy"))
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:80].clone()  # Bytes are cut in the middle of the alphabet.
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 80, "bos_token_id": 1, "eos_token_id": 2}))
    monkeypatch.setattr(CausalLM, "load", lambda *_: pytest.fail("weights were loaded"))
    at = ["model=local", "model.path=copy", "model.context_length=64", "evaluation=full_zero_shot", "method=dense"]
    experiment = build_experiment(compose([*at, f"evaluation.data_dir={data_dir}"]))
    with pytest.raises(RequestError, match=r"token \d+, but config\.json has vocab_size 80") as refused:
        check(experiment, Workbench())
    assert 80 <= int(re.findall(r"token (\d+)", str(refused.value))[0]) < 256


def test_lost_items_are_made_again(make: Make) -> None:
    experiment = make("method=magnitude")
    first = run_one(experiment)
    assert recorded(experiment) == first
    items_path(RESULTS, first.fingerprint).unlink()
    assert recorded(experiment) is None
    assert run_one(experiment).items_sha256 == first.items_sha256


def test_two_records_are_compared_item_by_item_and_shown_in_a_block(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [run_one(make(f"method={method}")).fingerprint for method in ("magnitude", "nowag_p")]
    assert main(["compare", *names]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("acc full_zero_shot/arc_easy ")]
    assert "McNemar, exact" in line
    assert any(line.startswith("flips full_zero_shot ") for line in out.splitlines())
    assert main(["table"]) == 0
    assert "tiny full_zero_shot\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("evaluation.full_zero_shot.limit=0", "evaluation.full_zero_shot.limit: must be at least 1, or null for all"),
        (
            "evaluation.full_zero_shot.tasks=[arc_esay]",
            r"evaluation.full_zero_shot.tasks: unknown task 'arc_esay'; there are: .*did you mean arc_easy\?",
        ),
        (
            "evaluation.full_zero_shot.name=files",
            "evaluation.full_zero_shot.name: is 'files', but must be full_zero_shot, under which it stands",
        ),
        ("evaluation.fidelity=2", "evaluation.fidelity: input should be a valid boolean; got 2"),
        ("+evaluation.foo=2", "evaluation.foo: unknown key; there are: data_dir, fidelity, noise_floor_windows"),
        ("+evaluation.foo.x=2", "evaluation.foo._target_: must name a class below 'nowag_exp.'; got None"),
    ],
)
def test_a_wrong_setting_is_named(make: Make, override: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make(override)


def test_a_set_of_no_measurements_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"evaluation: measures nothing; set evaluation=NAME or evaluation=\[NAME,NAME\]"
    ):
        build_experiment(compose(["model=tiny", "evaluation=[]"]))


def test_missing_rows_are_found_before_anything_is_run(make: Make, data_dir: Path) -> None:
    for path in (data_dir / "baber/piqa").iterdir():
        path.unlink()
    with pytest.raises(RequestError, match="hf download --repo-type dataset baber/piqa"):
        check(make("method=magnitude"), Workbench())


def test_a_limit_is_another_experiment_and_takes_the_first_items(make: Make) -> None:
    few = make("method=dense", "evaluation.full_zero_shot.limit=2")
    assert few.fingerprint != make("method=dense").fingerprint
    items = load_items(RESULTS, run_one(few))
    assert items.groupby("task")["item"].apply(list).map(lambda found: found == [0, 1]).all()


def test_a_metric_that_no_task_defines_is_refused(make: Make) -> None:
    wrong = make("evaluation.full_zero_shot.tasks=[rte,boolq]", "evaluation.full_zero_shot.metrics=[acc_norm]")
    message = r"evaluation\.full_zero_shot\.metrics: no task defines acc_norm; they define: acc$"
    with pytest.raises(RequestError, match=message):
        check(wrong, Workbench())


def test_items_that_lost_their_beginning_are_in_the_ledger(make: Make, rows: Any, data_dir: Path, write: Any) -> None:
    rows["boolq"]["validation"][0]["passage"] = "long " * 1000
    write(data_dir / "aps/super_glue/boolq/validation.json", rows["boolq"]["validation"])
    record = run_one(make("method=dense", "evaluation.full_zero_shot.tasks=[boolq,rte]"))
    (entry,) = [entry for entry in record.irregularities if entry.kind == "truncated_items"]
    assert (entry.where, entry.count) == ("full_zero_shot/boolq", 2)


def test_the_same_prompts_with_other_answers_are_other_items(make: Make, data_dir: Path, rows: Any, write: Any) -> None:
    only = ("method=dense", "evaluation.full_zero_shot.tasks=[piqa]")
    before = run_one(make(*only))
    for row in rows["piqa"]["validation"]:
        row["label"] = 1 - row["label"]
    write(data_dir / "baber/piqa/validation.jsonl", rows["piqa"]["validation"])
    after = run_one(make(*only))
    hashes = [{m.token_hash for m in record.metrics if m.name == "acc"} for record in (before, after)]
    assert not hashes[0] & hashes[1]
