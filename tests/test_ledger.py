"""Every kind of irregularity, provoked: it is in the record, in the table and in the report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from nowag_exp.cli import main
from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.experiment import Workbench
from nowag_exp.ledger import PASSING, Kind
from nowag_exp.measure import Evaluator
from nowag_exp.models import ModelSource
from nowag_exp.tracking.tensorboard import TensorBoardTracking

VQ = ["method=kmeans_vq", "method.weighted=false", "method.d=4", "method.bits=1", "method.iterations=2"]


@pytest.fixture
def run(workplace: Path, tiny_run: list[str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run one experiment by the command; returns the table that it prints."""

    def _run(*overrides: str) -> str:
        capsys.readouterr()
        assert main(["run", *tiny_run, *overrides]) == 0
        return capsys.readouterr().out

    return _run


@pytest.fixture
def own(workplace: Path) -> Callable[..., list[str]]:
    """A copy of the tiny model with some tensors changed; gives the overrides that choose it."""

    def _own(**changes: Callable[[torch.Tensor], torch.Tensor]) -> list[str]:
        tiny = build(compose(["model=tiny"])["model"], "model", ModelSource).folder()  # type: ignore[type-abstract]
        shutil.copytree(tiny, workplace / "own")
        tensors = load_file(workplace / "own" / "model.safetensors")
        for end, change in changes.items():
            for name in [name for name in tensors if name.endswith(f"{end}.weight")]:
                tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, workplace / "own" / "model.safetensors", {"format": "pt"})
        return ["model=local", f"model.path={workplace / 'own'}", "model.context_length=64"]

    return _own


Run = Callable[..., str]
Own = Callable[..., list[str]]
PROVOKED: dict[str, Callable[..., str]] = {}
"""What provokes each kind; returns the table that was printed."""


def provokes(kind: Kind) -> Callable[[Callable[..., str]], Callable[..., str]]:
    def keep(provoke: Callable[..., str]) -> Callable[..., str]:
        PROVOKED[kind] = provoke
        return provoke

    return keep


@provokes("dead_columns")
def an_input_that_is_always_zero(run: Run, own: Own, **others: Any) -> str:
    return run(*own(input_layernorm=lambda weight: weight * (torch.arange(len(weight)) != 5)), "method=wanda")


@provokes("tied_scores")
def weights_of_one_magnitude(run: Run, own: Own, **others: Any) -> str:
    return run(*own(up_proj=lambda weight: weight.sign() / 8), "method=magnitude")


@provokes("empty_codewords")
def fewer_distinct_weights_than_codewords(run: Run, own: Own, **others: Any) -> str:
    return run(*own(up_proj=lambda weight: torch.full_like(weight, 0.125)), *VQ)


@provokes("raised_dampening")
def fewer_tokens_than_inputs(run: Run, **others: Any) -> str:
    few = ["calibration.n_sequences=1", "calibration.context_length=16"]
    return run("method=gptq", "method.dampening=0", "method.on_failure=increase_dampening", *few)


@provokes("overlapping_windows")
def more_windows_than_text(run: Run, **others: Any) -> str:
    return run("method=nowag_p", "calibration.n_sequences=64")


@provokes("byte_order_marks")
def a_text_that_opens_with_a_mark(run: Run, workplace: Path, **others: Any) -> str:
    text = workplace / "cal.txt"
    text.write_bytes(b"\xef\xbb\xbf" + text.read_bytes())
    return run("method=nowag_p")


@provokes("truncated_items")
def an_item_longer_than_the_model_reads(run: Run, workplace: Path, **others: Any) -> str:
    row = {"goal": "Walk. " * 1000, "sol1": "Go.", "sol2": "Stay.", "label": 0}
    rows = workplace / "data" / "baber" / "piqa" / "validation.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text(f"{json.dumps(row)}\n", encoding="utf-8")
    suite = ["evaluation=[files,full_zero_shot]", "evaluation.files.path=eval.txt", "evaluation.files.n_windows=4"]
    return run(
        *suite, f"evaluation.data_dir={workplace / 'data'}", "evaluation.full_zero_shot.tasks=[piqa]", "method=dense"
    )


@provokes("halved_batches")
def memory_for_half_a_batch(run: Run, short_memory: Callable[[int], None], **others: Any) -> str:
    short_memory(300)
    return run("method=nowag_p")


@provokes("corrupted_store_entry")
def a_flipped_bit_in_the_statistics(run: Run, workplace: Path, **others: Any) -> str:
    run("method=nowag_p")
    flip_statistics(workplace / "results")
    return run("method=nowag_p")


def flip_statistics(results: Path) -> None:
    """Flip a bit of those that are kept, and forget the records."""
    (statistics,) = (results / "store" / "statistics").glob("*.safetensors")
    content = statistics.read_bytes()
    statistics.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shutil.rmtree(results / "runs")


@provokes("tracking_failed")
def a_tracker_that_refuses(run: Run, monkeypatch: pytest.MonkeyPatch, **others: Any) -> str:
    def refuse(*arguments: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(TensorBoardTracking, "send", refuse)
    return run("method=nowag_p", "tracking=tensorboard")


def test_every_kind_is_provoked() -> None:
    assert set(PROVOKED) == set(get_args(Kind))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_provoked_irregularity_is_in_the_record_the_table_and_the_report(
    kind: str,
    run: Run,
    own: Own,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    short_memory: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = PROVOKED[kind](run=run, own=own, workplace=workplace, monkeypatch=monkeypatch, short_memory=short_memory)
    (path,) = (workplace / "results" / "runs").glob("*.json")
    entries = json.loads(path.read_text(encoding="utf-8"))["irregularities"]
    of_kind = [entry for entry in entries if entry["kind"] == kind]
    assert of_kind
    assert all(entry["where"] and entry["detail"] and entry["count"] >= 1 for entry in of_kind)
    shown = f"{kind}:{sum(entry['count'] for entry in of_kind)}"
    assert shown in printed
    assert main(["table"]) == 0
    assert shown in capsys.readouterr().out
    assert main(["table", "--format", "csv"]) == 0
    assert shown in capsys.readouterr().out
    assert main(["report", "--out", str(workplace / "report")]) == 0
    page = (workplace / "report" / "index.html").read_text(encoding="utf-8")
    ledger = page[page.index('id="ledger-table"') :]
    assert kind in ledger[: ledger.index("</table>")]


@pytest.mark.parametrize("kind", PASSING)
def test_what_the_run_that_goes_on_does_not_meet_again_is_in_its_record(
    kind: str,
    run: Run,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    short_memory: Callable[[int], None],
    killed: type[BaseException],
) -> None:
    def die(*arguments: object) -> None:
        raise killed

    with_ample_memory = Workbench.model
    if kind == "halved_batches":
        short_memory(300)
    else:
        run("method=nowag_p")
        flip_statistics(workplace / "results")
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "measure", die)
        with pytest.raises(killed):
            run("method=nowag_p")
    monkeypatch.setattr(Workbench, "model", with_ample_memory)
    assert f"{kind}:1" in run("method=nowag_p")
    (path,) = (workplace / "results" / "runs").glob("*.json")
    entries = json.loads(path.read_text(encoding="utf-8"))["irregularities"]
    assert [entry["kind"] for entry in entries if entry["kind"] in PASSING] == [kind]
    assert not list((workplace / "results" / "store").glob("unfinished/*"))
