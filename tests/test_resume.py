"""A killed experiment goes on where it stopped, and ends as if nothing had happened."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nowag_exp import experiment as module
from nowag_exp import interrupt, measure, shelf
from nowag_exp.compose import compose
from nowag_exp.config import build_experiment
from nowag_exp.methods import GPTQ, NoWagVQ, SparseGPT, Wanda
from nowag_exp.records.record import RunRecord, load_records


@pytest.fixture
def make(workplace: Path, tiny_run: list[str]):
    several = ["model.n_blocks=3", "runtime.save_every=0", "evaluation.files.n_windows=2"]
    return lambda *overrides: build_experiment(compose([*tiny_run, *several, *overrides]))


def without_costs(record: RunRecord) -> dict[str, object]:
    content = json.loads(record.to_json())
    del content["costs"], content["checksum"]
    return content


METHODS = [
    ("method=wanda", "calibration.n_sequences=3", "runtime.batch_tokens=64"),
    ("method=gptq", "method.bits=3", "method.propagate=dense"),
    ("method=sparsegpt", "method.block_size=64", "method.bits=4", "method.group_size=64"),
    ("method=nowag_vq", "method.d=4", "method.bits=1", "method.iterations=2"),
]


@pytest.mark.parametrize("overrides", METHODS, ids=" ".join)
def test_killed_at_any_step_the_next_run_ends_as_an_uninterrupted_one(
    make, die_at, workplace: Path, overrides: tuple[str, ...]
) -> None:
    experiment = make(*overrides)
    n_steps = die_at(experiment, None)
    (expected,) = load_records(workplace / "results")
    assert not expected.costs.resumed
    assert n_steps > 5
    for step in range(1, n_steps - 1):  # By the last two, of the sweep and its end, it is recorded.
        shutil.rmtree(workplace / "results")
        assert die_at(experiment, step) == step
        assert not load_records(workplace / "results")
        again = die_at(experiment, None)
        (record,) = load_records(workplace / "results")
        assert without_costs(record) == without_costs(expected), f"killed at step {step} of {n_steps}"
        assert again <= n_steps
        assert not (workplace / "results" / "store" / "unfinished" / experiment.fingerprint).exists()
        assert not list((workplace / "results" / "store").glob("walks/*.safetensors"))


def test_killed_again_and_again_it_still_ends_the_same(make, die_at, workplace: Path) -> None:
    experiment = make("method=wanda")
    die_at(experiment, None)
    (expected,) = load_records(workplace / "results")
    shutil.rmtree(workplace / "results")
    for step in (4, 5, 6, 7, 3, 2, 1):  # Some of these runs get further than the one before, some do not.
        die_at(experiment, step)
    die_at(experiment, None)
    (record,) = load_records(workplace / "results")
    assert without_costs(record) == without_costs(expected)
    assert record.costs.resumed


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        (Wanda, ("method=wanda",)),
        (GPTQ, ("method=gptq",)),
        (NoWagVQ, ("method=nowag_vq", "method.d=4", "method.bits=1")),
        (SparseGPT, ("method=sparsegpt", "method.propagate=dense")),
    ],
)
def test_blocks_that_were_compressed_are_not_compressed_again(
    make, die_at, monkeypatch: pytest.MonkeyPatch, method: type, overrides: tuple[str, ...]
) -> None:
    seen: list[str] = []
    real = method.compress
    monkeypatch.setattr(
        method, "compress", lambda self, weights, *rest: seen.extend(weights) or real(self, weights, *rest)
    )
    experiment, step = make(*overrides), 1
    while die_at(experiment, step) == step and len(seen) < 14:  # 7 linears a block: 2 of 3 blocks are done.
        seen.clear()
        shutil.rmtree(experiment.paths.folder)
        step += 1
    assert sorted({name.split(".")[2] for name in seen}) == ["0", "1"]
    die_at(experiment, None)
    assert len(seen) == len(set(seen)) == 21


def test_an_interrupted_calibration_goes_on_at_its_block(make, die_at, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    real = shelf.Walk.__next__

    def counted(self: shelf.Walk) -> object:
        passed.append(self.index)
        return real(self)

    monkeypatch.setattr(shelf.Walk, "__next__", counted)
    experiment = make("method=nowag_p")
    n_dense_windows = 2
    die_at(experiment, n_dense_windows + 2)  # the second of three blocks
    assert passed == [0, 1]
    die_at(experiment, None)
    assert passed == [0, 1, 2, 3], "3 is where the walk ends"
    (record,) = load_records(experiment.paths.folder)
    assert record.costs.resumed


@pytest.mark.parametrize("fault", ["gone", "flipped"])
@pytest.mark.parametrize("name", ["block-00000", "block-00001", "activations", "evaluation.files"])
def test_what_is_gone_or_damaged_is_made_again(make, die_at, killed, workplace: Path, name: str, fault: str) -> None:
    """A block, and with it all that follow from it."""
    experiment = make("method=gptq")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save_record", lambda *args: (_ for _ in ()).throw(killed))
        die_at(experiment, None)
    path = workplace / "results" / "store" / "unfinished" / experiment.fingerprint / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    if fault == "gone":
        path.unlink()
    else:
        content[-3] ^= 1
        path.write_bytes(content)
    die_at(experiment, None)
    (record,) = load_records(workplace / "results")
    damaged = [entry for entry in record.irregularities if entry.kind == "corrupted_store_entry"]
    assert len(damaged) == (fault == "flipped")
    shutil.rmtree(workplace / "results")
    die_at(experiment, None)
    (expected,) = load_records(workplace / "results")
    found = replace(record, irregularities=[entry for entry in record.irregularities if entry not in damaged])
    assert without_costs(found) == without_costs(expected)


def test_quick_blocks_are_not_kept_unless_asked_to_stop(make, die_at, workplace: Path, monkeypatch) -> None:
    experiment = make("method=nowag_p", "runtime.save_every=1000")
    blocks = 2 + 3  # windows of the dense model, blocks of the calibration
    die_at(experiment, blocks + 2)
    kept = workplace / "results" / "store" / "unfinished" / experiment.fingerprint
    assert not list(kept.glob("block-*"))
    monkeypatch.setattr(interrupt, "requested", lambda: True)
    die_at(experiment, 2 + 2)  # The calibration is stored by now.
    assert [path.name for path in sorted(kept.glob("block-*"))] == [
        "block-00000.safetensors",
        "block-00001.safetensors",
    ]


def test_what_was_measured_is_not_measured_again(make, die_at, killed, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    real = measure.score_windows
    monkeypatch.setattr(measure, "score_windows", lambda *args: measured.append("") or real(*args))
    experiment = make("method=magnitude")

    def die(*args: object) -> None:
        raise killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_record", die)
        die_at(experiment, None)
    assert len(measured) == 1
    die_at(experiment, None)
    assert len(measured) == 1
    (record,) = load_records(experiment.paths.folder)
    assert record.costs.resumed
