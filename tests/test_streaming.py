"""Experiments on a streamed model: the same records and checkpoints, to the last bit, whatever happens on the way."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nowag_exp import experiment as module
from nowag_exp import residence
from nowag_exp.calibration import walk
from nowag_exp.calibration.statistics import SiteListener
from nowag_exp.compose import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.engines import Local
from nowag_exp.errors import RequestError
from nowag_exp.evaluation.zero_shot.continuations import Continuations
from nowag_exp.execution import run_all
from nowag_exp.experiment import Workbench, check
from nowag_exp.formats.folder import FolderWriter
from nowag_exp.measure import Evaluator
from nowag_exp.methods import Needs
from nowag_exp.models import SITES, Architecture, CausalLM, activations
from nowag_exp.models.activations import free_bytes
from nowag_exp.progress import Reporter
from nowag_exp.records.record import RunRecord, load_records
from nowag_exp.residence import choose

METHODS = [
    ("method=dense",),
    ("method=magnitude",),
    ("method=magnitude", "method.pattern=1:1"),
    ("method=wanda", "method.pattern=32:32"),
    ("method=wanda",),
    ("method=nowag_p",),
    ("method=gptq", "method.bits=3"),
    ("method=sparsegpt", "method.bits=4", "method.propagate=dense"),
    ("method=nowag_vq", "method.d=4", "method.bits=1"),
]
STREAMED = ("runtime.offload=always", "runtime.activations=disk")


@pytest.fixture
def make(workplace: Path, tiny_run: list[str]) -> Callable[..., Experiment]:
    return lambda *overrides: build_experiment(compose([*tiny_run, "model.n_blocks=3", *overrides]))


def content(record: RunRecord) -> dict[str, Any]:
    """All but costs and how it was computed."""
    found = json.loads(record.to_json())
    del found["costs"], found["checksum"], found["config"]
    return found


def checkpoints(folder: Path) -> dict[str, Any]:
    """Every tensor, and the rest of each checkpoint but for how it is cut into shards."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*.safetensors"):
        for name, tensor in load_file(path).items():
            found[f"{path.parent.name}/{name}"] = tensor.dtype, tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        config.get("quantization_config", {}).pop("sha256", None)
        found[path.parent.name] = config
    return found


def test_records_and_checkpoints_are_those_of_a_loaded_model(
    make: Callable[..., Experiment], workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = []
    for more in ((), STREAMED):
        shutil.rmtree(workplace / "results", ignore_errors=True)
        experiments = [make(*method, "checkpoint.save=true", *more) for method in METHODS]
        outcomes = run_all(experiments, Workbench(), Reporter())
        assert [outcome.failure for outcome in outcomes] == [None] * len(METHODS)
        records = sorted(load_records(workplace / "results"), key=lambda record: record.fingerprint)
        found.append(([content(record) for record in records], checkpoints(workplace / "results" / "checkpoints")))
        assert ("tiny: streamed block by block (runtime.offload=always)" in capfd.readouterr().err) == bool(more)
        assert not list((workplace / "results" / "store").glob("unfinished/*/*"))
    assert len(found[0][0]) == len(METHODS)
    assert found[0] == found[1]


@pytest.mark.parametrize("method", [("method=wanda",), ("method=nowag_vq", "method.d=4", "method.bits=1")])
def test_killed_at_any_step_the_next_run_ends_as_an_uninterrupted_one(
    make: Callable[..., Experiment],
    workplace: Path,
    die_at: Callable[[Experiment, int | None], int],
    method: tuple[str, ...],
) -> None:
    experiment = make(*method, *STREAMED, "runtime.save_every=0", "calibration.n_sequences=3")
    n_steps = die_at(experiment, None)
    (expected,) = load_records(workplace / "results")
    for step in range(1, n_steps - 1):
        shutil.rmtree(workplace / "results")
        die_at(experiment, step)
        assert not load_records(workplace / "results")
        die_at(experiment, None)
        (record,) = load_records(workplace / "results")
        assert content(record) == content(expected), f"killed at step {step} of {n_steps}"


def test_a_kept_block_that_is_damaged_while_it_is_in_use_fails_the_job_and_the_next_run_makes_it_again(
    make: Callable[..., Experiment], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make("method=nowag_p", *STREAMED)
    run_all([experiment], Workbench(), Reporter())
    (expected,) = load_records(workplace / "results")
    shutil.rmtree(workplace / "results")
    plain = Evaluator.measure

    def damaging(evaluator: Evaluator, model: CausalLM) -> Any:
        (path,) = Path("results/store").glob("unfinished/*/block-00001.safetensors")
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
        return plain(evaluator, model)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "measure", damaging)
        (outcome,) = run_all([experiment], Workbench(), Reporter())
    assert outcome.failure is not None
    assert outcome.failure.endswith(
        "block-00001.safetensors: was damaged or removed while it was in use; run the same command again"
    )
    (outcome,) = run_all([experiment], Workbench(), Reporter())
    assert outcome.record is not None
    assert content(outcome.record) == content(expected)


def test_a_job_that_fails_leaves_nothing_to_the_next_one_on_the_same_model(
    make: Callable[..., Experiment], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = run_all([make("method=wanda", *STREAMED)], Workbench(), Reporter())
    shutil.rmtree(workplace / "results")

    def full(self: object, linear: str, weight: object) -> None:
        if "v_proj" in linear:  # Two linears of the block are replaced by then.
            raise OSError("no room")

    bench = Workbench()
    with monkeypatch.context() as patch:
        patch.setattr(FolderWriter, "add_weight", full)
        (failed,) = run_all([make("method=magnitude", *STREAMED, "checkpoint.save=true")], bench, Reporter())
    assert failed.failure is not None
    (outcome,) = run_all([make("method=wanda", *STREAMED)], bench, Reporter())
    assert outcome.record is not None
    assert expected.record is not None
    assert content(outcome.record) == content(expected.record)


def test_several_workers_on_a_streamed_model_give_the_same(
    make: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = run_all([make("method=nowag_p")], Workbench(), Reporter())
    shutil.rmtree("results")
    monkeypatch.setattr(module, "build_engine", lambda name, device: Local([device] * 3))
    (outcome,) = run_all([make("method=nowag_p", *STREAMED)], Workbench(), Reporter())
    assert outcome.record is not None
    assert expected.record is not None
    assert content(outcome.record) == content(expected.record)


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_memory_that_ends_while_a_batch_is_added_up_counts_it_once(fails_at: int) -> None:
    listener, square = SiteListener(Needs.HESSIAN), torch.square
    calls = 0

    def failing(rows: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return square(rows)

    def hear() -> None:
        for site in SITES:
            listener.hear(site.name, torch.ones(2, 5, 4))

    hear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "square", failing)
        with pytest.raises(torch.OutOfMemoryError):
            listener.add()
    listener.forget()
    hear()
    listener.add()
    for seen in listener.results(0, lambda: "").values():
        assert seen.n_tokens == 10
        assert seen.second_moment.tolist() == [[10.0] * 4] * 4


@torch.inference_mode()
def test_zero_shot_answers_are_those_of_a_loaded_model(make: Callable[..., Experiment]) -> None:
    source = make().model
    pairs = [([n, 3, 4][: 1 + n % 3], [n, n + 1, 5][: 1 + n % 2]) for n in range(40)]
    pairs += [([1, 2, 3], [n, 7]) for n in range(5)]
    loaded, streamed = (
        Continuations(source.load(torch.device("cpu"), streamed=each), 30)(pairs, lambda index: None)
        for each in (False, True)
    )
    assert streamed == loaded


@pytest.mark.parametrize("propagate", ["dense", "compressed"])
def test_statistics_of_a_batch_that_does_not_fit_are_those_of_one_that_does(
    make: Callable[..., Experiment], memory_of: Callable[[CausalLM, int], Any], propagate: str
) -> None:
    source = make().model
    tokens = torch.randint(250, (6, 20), generator=torch.Generator().manual_seed(0))
    found = []
    for limit in (None, 45):
        model = source.load(torch.device("cpu"))
        parts = memory_of(model, limit) if limit else []
        found.append(list(walk(model, tokens, 6, propagate, Needs.HESSIAN)))  # type: ignore[arg-type]
        # Six rows of 20 are too many, three are, one is not: the rows of the first tries must not count.
        assert set(parts) <= {(1, 20)}
    for whole, in_parts in zip(*found, strict=True):
        for site, seen in whole.items():
            assert in_parts[site].n_tokens == seen.n_tokens == 120
            torch.testing.assert_close(in_parts[site].sum_of_squares, seen.sum_of_squares, rtol=1e-5, atol=1e-9)
            torch.testing.assert_close(in_parts[site].second_moment, seen.second_moment, rtol=1e-4, atol=1e-5)


def test_a_batch_that_was_halved_is_in_the_ledger_and_changes_no_result(
    make: Callable[..., Experiment], short_memory: Callable[[int], None]
) -> None:
    (expected,) = run_all([make("method=nowag_p")], Workbench(), Reporter())
    shutil.rmtree("results")
    short_memory(150)
    (outcome,) = run_all([make("method=nowag_p")], Workbench(), Reporter())
    assert outcome.record is not None
    assert expected.record is not None
    (entry,) = (entry for entry in outcome.record.irregularities if entry.kind == "halved_batches")
    assert entry.where == "cpu"
    assert entry.detail == "256 tokens at once were too many, 128 were taken then"
    values = [[metric.value for metric in each.metrics] for each in (outcome.record, expected.record)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def sizes(experiment: Experiment) -> Architecture:
    return Architecture.of(experiment.model.check())


@pytest.mark.parametrize(
    ("offload", "free", "streamed"),
    [("auto", 64e9, False), ("auto", 1e6, True), ("never", 1e6, False), ("always", 64e9, True)],
)
def test_auto_streams_what_does_not_fit(
    make: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, offload: str, free: float, streamed: bool
) -> None:
    # Blocks of 200 MB, so that what the process takes by itself does not decide.
    large = ["model.hidden_size=1024", "model.intermediate_size=16384", "model.n_heads=8", "model.n_blocks=40"]
    experiment = make(*large, f"runtime.offload={offload}", "method=magnitude")
    of_model = Architecture(
        hidden_size=1024,
        intermediate_size=16384,
        n_blocks=40,
        n_heads=8,
        n_kv_heads=4,
        head_dim=128,
        vocabulary=258,
        tied=False,
    )
    monkeypatch.setattr(residence, "free_bytes", lambda device: free)
    monkeypatch.setattr(residence.psutil.Process, "memory_info", lambda self: FakeMemory(2.4e9))
    found = choose(experiment, of_model, torch.device("cpu"), {})
    assert found.streamed == streamed
    assert found.reason.startswith(
        f"tiny: {'streamed block by block' if streamed else 'loaded'} (runtime.offload={offload}); estimates: "
    )


@pytest.mark.parametrize(
    ("free_gb", "how"),
    [
        ({0: 200, 1: 200}, "loaded"),
        ({0: 80, 1: 80, 2: 80}, "spread over 3 GPUs"),
        ({0: 82, 1: 82}, "streamed block by block"),  # Enough in all, but not for whole blocks.
        ({0: 80, 1: 40}, "streamed block by block"),
        ({0: 24}, "streamed block by block"),
    ],
)
def test_a_70b_is_spread_over_the_gpus_that_hold_it_together_and_streamed_otherwise(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, free_gb: dict[int, int], how: str
) -> None:
    more = ["model=llama2_70b", "calibration=redpajama", "evaluation=wikitext2", "method=nowag_p"]
    experiment = build_experiment(compose(more))
    taken: Counter[torch.device] = Counter()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free_gb))
    monkeypatch.setattr(
        residence,
        "free_bytes",
        lambda device: 1e9 * free_gb[device.index or 0] - taken[torch.device("cuda", device.index or 0)],
    )
    found = choose(experiment, experiment.model.sizes(), torch.device("cuda"), {})
    assert found.reason.startswith(f"llama2_70b: {how} (runtime.offload=auto); estimates: 14")
    assert (found.gpus is not None) == ("spread" in how)
    if found.gpus is not None:
        # 90 % of a card less what compressing the largest linear takes.
        assert found.gpus[2] == pytest.approx(0.9 * 80e9 - 24 * 28672 * 8192, rel=1e-3)
    # The next experiment on the loaded model chooses the same.
    taken.update({torch.device("cuda", gpu): 138e9 / len(free_gb) for gpu in free_gb if not found.streamed})
    again = choose(experiment, experiment.model.sizes(), torch.device("cuda"), taken)
    assert (again.streamed, again.gpus) == (found.streamed, found.gpus)


@pytest.mark.parametrize(("free", "kind"), [(1e9, "cpu"), (1e5, "disk")])
def test_hidden_states_go_to_a_file_where_memory_is_short(
    make: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, free: float, kind: str
) -> None:
    model = make().model.load(torch.device("cpu"))
    monkeypatch.setattr(activations, "free_bytes", lambda device: free)
    tokens = torch.zeros(4, 64, dtype=torch.int64)  # 64 kB of hidden states.
    assert walk(model, tokens, 2, "dense", Needs.DIAGONAL).hidden.placement == kind


class FakeMemory:
    def __init__(self, rss: float) -> None:
        self.rss = rss


def test_too_little_memory_for_one_block_says_how_much_is_needed(
    make: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make("method=nowag_p")
    monkeypatch.setattr(residence, "free_bytes", lambda device: 1e6)
    monkeypatch.setattr(residence.psutil.Process, "memory_info", lambda self: FakeMemory(1e8))
    (outcome,) = run_all([experiment], Workbench(), Reporter())
    assert outcome.failure is not None
    assert (
        "model tiny: even one block at a time takes about 0.7 GB on cpu, of which 0.1 GB can be had" in outcome.failure
    )
    assert "(block 0.0 GB, batch 0.0 GB, head and logits 0.0 GB, method 0.0 GB); free memory, or set" in outcome.failure
    assert outcome.failure.endswith(
        "or set model.dtype=bfloat16, or set a lower runtime.batch_tokens or context_length"
    )
    with pytest.raises(RequestError, match="even one block at a time takes about"):
        choose(experiment, sizes(experiment), torch.device("cpu"), {})


def test_a_container_has_no_more_memory_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "max"
    (tmp_path / "current").write_text("1500000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    monkeypatch.setattr(activations, "CGROUPS", ((str(tmp_path), "max", "current", "inactive_file"),))
    machine = free_bytes(torch.device("cpu"))
    limit.write_text("max\n")
    assert free_bytes(torch.device("cpu")) == pytest.approx(machine, rel=0.2)
    limit.write_text("5000000\n")
    assert free_bytes(torch.device("cpu")) == 4e6, "cache gives way"


def test_a_truncated_shard_is_named_before_any_work(make: Callable[..., Experiment], workplace: Path) -> None:
    folder = workplace / "copy"
    shutil.copytree(make().model.folder(), folder)
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    local = ["model=local", f"model.path={folder}", "model.dtype=float32", "calibration=files"]
    files = ["calibration.path=cal.txt", "evaluation=files", "evaluation.files.path=eval.txt"]
    experiment = build_experiment(
        compose([*local, *files, "model.context_length=64", "model.group_size=64", *STREAMED])
    )
    with pytest.raises(RequestError, match=r"copy/model\.safetensors: is not a whole safetensors file"):
        check(experiment, Workbench())
