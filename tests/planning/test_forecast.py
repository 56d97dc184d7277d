"""A forecast against what a run of the same experiments does: passes, factorisations, bytes on disk."""

import json
from pathlib import Path

import pytest
import torch

from nowag_exp import experiment as module
from nowag_exp import runner, shelf
from nowag_exp.compose import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.execution import inline, run_all
from nowag_exp.experiment import Workbench
from nowag_exp.layout import sweeps
from nowag_exp.methods import second_order
from nowag_exp.models import CausalLM
from nowag_exp.planning import Forecast, forecast, render_forecast
from nowag_exp.planning.prices import Prices
from nowag_exp.progress import Reporter
from nowag_exp.runner import Outcome
from nowag_exp.search import is_search
from nowag_exp.sweep import expand, plan

RESULTS = Path("results")
DENSE = "method.propagate=dense"


@pytest.fixture
def make(workplace: Path, tiny_run: list[str]):
    return lambda *overrides: build_experiment(compose([*tiny_run, *overrides]))


def run(jobs: list[Experiment]) -> list[Outcome]:
    outcomes = run_all(jobs, Workbench(), Reporter())
    assert all(outcome.record for outcome in outcomes), [outcome.failure for outcome in outcomes]
    return outcomes


def passes(found: Forecast, what: str) -> list[tuple[str, int, bool]]:
    """What is shared and named so, how many jobs need it, and whether it is kept."""
    return [(part.what, part.n_jobs, part.kept) for part in found.shared if what in part.what]


def test_sharing_is_what_a_run_shares(make, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [make("method=gptq", DENSE, f"method.bits={bits}") for bits in (4, 3)]
    jobs += [make("method=sparsegpt", DENSE), make("method=nowag_p"), make("method=wanda", DENSE)]
    jobs += [
        make("method=gptq", DENSE, "method.dampening=0.1"),
        make("method=gptq", DENSE, "method.dampening=0.1", "method.bits=3"),
    ]
    few = "calibration.n_sequences=4"
    jobs += [make("method=nowag_p", few), make("method=nowag_vq", "method.d=4", "method.bits=1", few)]
    jobs += [make("method=wanda"), make("method=dense")]
    found = forecast(jobs, RESULTS)

    walks, factors, states = [], [], []
    walk, factorise, forward = shelf.walk, second_order.hessian_factor, CausalLM.last_hidden
    for user in (module, shelf):
        monkeypatch.setattr(user, "walk", lambda *args: walks.append((args[3], len(args[1]))) or walk(*args))
    monkeypatch.setattr(second_order, "hessian_factor", lambda *args: factors.append(args[1]) or factorise(*args))
    monkeypatch.setattr(
        CausalLM,
        "last_hidden",
        lambda model, batches, dtype, stage: (
            # The noise floor is measured in another precision.
            states.append(bool(batches) and dtype is None and not model._changed)
            or forward(model, batches, dtype, stage)
        ),
    )
    run(jobs)
    assert sorted(walks) == [("compressed", 8), ("dense", 4), ("dense", 8)]
    calibrations = passes(found, "calibration pass")
    assert calibrations == [
        ("tiny: one calibration pass (files:cal.txt, 8 x 64 tokens, Hessians)", 7, False),
        ("tiny: one calibration pass (files:cal.txt, 4 x 64 tokens)", 2, False),
    ]
    assert len(calibrations) == sum(propagate == "dense" for propagate, _ in walks)
    assert factors == [0.01] * 8 + [0.1] * 8, "2 blocks of 4 sites"
    assert [n_jobs for _, n_jobs, _ in passes(found, "factorisation")] == [3, 2]
    assert sum(states) == 1
    assert passes(found, "dense model") == [("tiny: the dense model on files:eval.txt@64", len(jobs), False)]


def test_one_pass_serves_all_though_methods_that_need_less_stand_first(make, monkeypatch) -> None:
    jobs = [make("method=nowag_p"), make("method=nowag_p", "method.pattern=2:4")]
    jobs += [make("method=gptq", DENSE), make("method=gptq", DENSE, "method.bits=3"), make("method=wanda", DENSE)]
    assert [n_jobs for _, n_jobs, _ in passes(forecast(jobs, RESULTS), "calibration pass")] == [5]
    walks = []
    walk = shelf.walk
    monkeypatch.setattr(shelf, "walk", lambda *args: walks.append(args[4].value) or walk(*args))
    assert [outcome.experiment for outcome in run(jobs)] == jobs, "in the order of the sweep"
    assert walks == ["hessian"]


def test_a_pass_for_diagonals_alone_does_not_serve_a_method_that_needs_hessians(make, monkeypatch) -> None:
    walks = []
    walk = shelf.walk
    monkeypatch.setattr(shelf, "walk", lambda *args: walks.append(args[4].value) or walk(*args))
    for job in (make("method=nowag_p"), make("method=gptq", DENSE), make("method=gptq", DENSE, "method.bits=3")):
        run([job])
    assert walks == ["diagonal", "hessian"]


def data_bytes(folder: Path) -> int:
    """Of all tensors in the store, without the headers of the files."""
    total = 0
    for path in folder.rglob("*.safetensors"):
        header = int.from_bytes(path.read_bytes()[:8], "little")
        total += path.stat().st_size - 8 - header
    return total


@pytest.mark.parametrize(
    "methods",
    [
        [("method=nowag_p",)],
        [("method=wanda",)],
        [("method=gptq", DENSE), ("method=gptq", DENSE, "method.dampening=0.1"), ("method=nowag_p",)],
        [("method=gptq", DENSE, "method.act_order=true", "method.group_size=null"), ("method=sparsegpt", DENSE)],
    ],
    ids=["diagonals", "on compressed activations", "Hessians and factors", "factors by activation"],
)
def test_bytes_of_the_store_are_told_exactly(make, methods: list[tuple[str, ...]]) -> None:
    jobs = [make(*method) for method in methods]
    found = forecast(jobs, RESULTS)
    run(jobs)
    assert found.disk_bytes == data_bytes(RESULTS / "store")
    again = forecast([make(*method, "evaluation.files.n_windows=3") for method in methods], RESULTS)
    assert again.disk_bytes == 3 * 63 * 64 * 4, "only the states of the other windows are missing"


CHECKPOINTS = [
    ("method=dense",),
    ("method=magnitude",),
    ("method=wanda", "method.sparsity=0.75"),
    ("method=nowag_p", "method.pattern=2:4"),
    ("method=sparsegpt", "method.pattern=16:32"),
    ("method=sparsegpt", "method.bits=4", "method.group_size=32"),
    ("method=gptq", "method.bits=3"),
    ("method=gptq", "method.group_size=null"),
    ("method=rtn", "method.symmetric=true"),
    ("method=nowag_vq", "method.d=4", "method.bits=1"),
    ("method=nowag_vq", "method.d=3", "method.bits=2", "method.normalise=none"),
    ("method=kmeans_vq", "method.d=6", "method.bits=0.5"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_of_a_checkpoint_are_told_exactly(make, dtype: str) -> None:
    jobs = [
        make(*method, "checkpoint.save=true", f"model.dtype={dtype}", "evaluation.fidelity=false")
        for method in CHECKPOINTS
    ]
    jobs = [job for job in jobs if job.calibration is None or job.method.propagate == "compressed"]
    assert len(jobs) >= 6
    found = forecast(jobs, RESULTS)
    outcomes = run_all(jobs, Workbench(), Reporter())
    assert [job.disk_bytes for job in found.jobs] == [outcome.record.compression.n_bytes for outcome in outcomes]


def test_bytes_of_a_vector_quantized_checkpoint_are_told_exactly(make) -> None:
    jobs = [make(*method, "checkpoint.save=true", "evaluation.fidelity=false") for method in CHECKPOINTS[9:]]
    found = forecast(jobs, RESULTS)
    outcomes = run_all(jobs, Workbench(), Reporter())
    statistics = data_bytes(RESULTS / "store")
    sizes = [outcome.record.compression.n_bytes for outcome in outcomes]
    assert [job.disk_bytes for job in found.jobs] == [sizes[0] + statistics, *sizes[1:]]


def test_what_is_recorded_costs_nothing_and_what_the_store_has_is_not_counted(
    make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long a unit takes is measured elsewhere, and not the same each time.
    monkeypatch.setattr(Prices, "seconds", lambda prices, task: 1.0)
    first, second = make("method=gptq", DENSE), make("method=gptq", DENSE, "method.bits=3")
    before = forecast([first, second], RESULTS)
    assert [job.recorded for job in before.jobs] == [False, False]
    assert before.seconds is not None
    assert before.jobs[0].seconds > before.jobs[1].seconds > 0, "the first one calibrates"
    run([first])
    after = forecast([first, second], RESULTS)
    assert [job.recorded for job in after.jobs] == [True, False]
    assert after.jobs[0].seconds == 0
    assert after.disk_bytes == 0
    assert {(kept, n_jobs) for _, n_jobs, kept in passes(after, "")} == {(True, 1)}
    assert len(after.shared) == 3, "the pass, the factors and the dense states"
    run([second])
    done = forecast([first, second], RESULTS)
    assert (done.seconds, done.gpu_bytes, done.disk_bytes) == (0, 0, 0)
    assert "all 2 jobs are recorded, nothing is to be done" in render_forecast(done)


def test_records_of_the_same_model_and_machine_correct_what_is_measured(make, rewrite_record) -> None:
    job = make("method=magnitude", "evaluation.fidelity=false")
    run([make("method=magnitude", "method.pattern=2:4", "evaluation.fidelity=false")])
    (path,) = (RESULTS / "runs").glob("*.json")
    measured = forecast([job], RESULTS / "elsewhere").jobs[0]
    assert measured.source == "measured"
    content = json.loads(path.read_text())
    for stage, seconds in (("compression", 700.0), ("evaluation", 300.0)):
        content["costs"]["stages"][stage]["seconds"] = seconds
    rewrite_record(path, content)
    found = forecast([job], RESULTS).jobs[0]
    assert found.source == "recorded"
    assert found.seconds == pytest.approx(1000, rel=0.5), "another mask takes about as long"
    twice = make(
        "method=magnitude",
        "method.pattern=2:4",
        "method.name=magnitude",
        "evaluation.fidelity=false",
        "evaluation.files.n_windows=8",
        "runtime.batch_tokens=512",
    )
    assert forecast([twice], RESULTS).jobs[0].seconds == pytest.approx(700 + 2 * 300, rel=0.02), "twice the windows"
    content["provenance"]["machine"]["processor"] = "another"
    rewrite_record(path, content)
    assert forecast([job], RESULTS).jobs[0].source == "measured"


def test_methods_recorded_are_compared_with_themselves_alone(make) -> None:
    run([make("method=magnitude", "evaluation.fidelity=false")])
    (job,) = forecast([make("method=rtn", "evaluation.fidelity=false")], RESULTS).jobs
    assert job.source == "both", "evaluation is recorded, rounding is not"


HUB = ["model=llama2_70b", "calibration=redpajama"]


def test_a_model_that_is_not_here_is_forecast_without_allocating_it(workplace: Path) -> None:
    jobs = [
        build_experiment(compose([*HUB, "evaluation=[wikitext2,c4_windows]", f"method={method}"]))
        for method in ("dense", "nowag_p", "sparsegpt", "nowag_vq")
    ]
    found = forecast(jobs, RESULTS)
    assert all(job.recorded is False for job in found.jobs), "commits are pinned, so their fingerprints are known"
    assert found.ram_bytes > found.gpu_bytes
    # Second moments stay in memory with compressed activations; states of 256 and 83 windows of 4096 x 8192 in fp16.
    assert found.disk_bytes == pytest.approx((256 + 341_000 // 4096) * 4095 * 8192 * 2, rel=0.01)
    assert [(download.what, download.n_bytes) for download in found.downloads] == [
        ("model llama2_70b", 2 * 68_976_648_192),
        ("data set allenai/c4, en/c4-validation.00000-of-00008.json.gz", 40e6),
        ("data set Salesforce/wikitext, wikitext-2-raw-v1/test-00000-of-00001.parquet", 0.7e6),
        ("data set togethercomputer/RedPajama-Data-1T-Sample, 11 files", 5e9),
    ]
    assert found.weights_bytes == 2 * 68_976_648_192
    text = render_forecast(found)
    assert "to download: model llama2_70b (140 GB)" in text
    assert "llama2_70b: one calibration pass (redpajama, 128 x 4096 tokens)" in text


def test_streaming_takes_70b_from_more_than_a_card_has_to_less(workplace: Path) -> None:
    bytes_of = {}
    for offload in ("never", "always"):
        more = ["evaluation=wikitext2", "method=nowag_p", f"runtime.offload={offload}"]
        bytes_of[offload] = forecast([build_experiment(compose([*HUB, *more]))], RESULTS).gpu_bytes
    assert bytes_of["never"] > 138e9
    # A block is 1.7 GB in fp16; NoWag-P holds 24 bytes a weight of its largest linear, 28672 x 8192.
    assert bytes_of["always"] == pytest.approx(2 * 855_638_016 + 24 * 28672 * 8192, rel=1e-6)


def test_shared_hessians_of_a_7b_take_the_disk_that_the_method_says(workplace: Path) -> None:
    jobs = [
        build_experiment(compose(["model=llama2_7b", "calibration=c4", "evaluation=wikitext2", "method=gptq", DENSE]))
    ]
    states = 341_000 // 4096 * 4095 * 4096 * 2
    assert forecast(jobs, RESULTS).disk_bytes - states == pytest.approx(45e9, rel=0.03)


def test_a_suite_from_the_hub_has_no_fingerprint_without_network_and_its_size_is_known(workplace: Path) -> None:
    job = build_experiment(compose([*HUB, "evaluation=paper_zero_shot", "method=dense"]))
    (found,) = forecast([job], RESULTS).jobs
    assert found.recorded is None
    assert found.seconds is not None
    assert "tasks of paper_zero_shot: winogrande, piqa, rte, arc_easy, arc_challenge (size unknown)" in render_forecast(
        forecast([job], RESULTS)
    )


def test_a_text_of_unknown_length_has_an_unknown_time(workplace: Path) -> None:
    job = build_experiment(
        compose(["model=llama2_7b", "evaluation=wikitext2", "evaluation.wikitext2.repo=owner/name", "method=dense"])
    )
    found = forecast([job], RESULTS)
    assert (found.seconds, found.jobs[0].source) == (None, "unknown")
    assert "unknown time" in render_forecast(found)


def test_a_local_file_that_is_missing_is_an_error_not_a_download(workplace: Path) -> None:
    job = build_experiment(
        compose(["model=llama2_7b", "evaluation=files", "evaluation.files.path=gone.txt", "method=dense"])
    )
    with pytest.raises(RequestError, match=r"evaluation\.files\.path=gone\.txt: no such file"):
        forecast([job], RESULTS)


def test_jobs_run_in_the_order_of_the_forecast(make, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = "model.intermediate_size=128"
    jobs = [
        make("method=magnitude"),
        make("method=magnitude", wide),
        make("method=nowag_p"),
        make("method=nowag_p", wide),
    ]
    found = forecast(jobs, RESULTS)
    began: list[Experiment] = []
    plain = runner.run_logged
    monkeypatch.setattr(inline, "run_logged", lambda job, *others: began.append(job) or plain(job, *others))
    run(jobs)
    assert [job.experiment for job in found.jobs] == began


def test_jobs_that_look_alike_are_told_apart(make) -> None:
    jobs = [make("method=wanda"), make("method=wanda", DENSE), make("method=magnitude")]
    lines = render_forecast(forecast(jobs, RESULTS)).splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == [
        "tiny wanda 50% method.propagate=compressed",
        "tiny wanda 50% method.propagate=dense",
        "tiny magnitude 50%",
    ]


def test_the_estimate_of_the_tiny_model_is_of_the_right_order(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loose: seconds of a machine at rest, against those of one on which other tests run."""
    jobs = [make("method=nowag_vq", "method.d=4", "method.bits=1"), make("method=gptq")]
    found = forecast(jobs, RESULTS)
    outcomes = run_all(jobs, Workbench(), Reporter())
    for job, outcome in zip(found.jobs, outcomes, strict=True):
        stages = outcome.record.costs.stages
        taken = sum(cost.seconds for name, cost in stages.items() if name != "load")
        assert 0 < job.seconds < 20 * taken + 1


def test_a_gpu_that_is_not_there_is_an_error(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match=r"runtime\.device=cuda: torch sees no GPU"):
        forecast([make("runtime.device=cuda")], RESULTS)


TEXTS = ["calibration=files", "calibration.path=cal.txt", "evaluation=files", "evaluation.files.path=eval.txt"]
TEXTS += ["evaluation.files.n_windows=4"]


@pytest.mark.parametrize("name", sorted(name for name in sweeps() if not is_search(name)))
def test_every_sweep_plans_on_the_tiny_model(workplace: Path, name: str) -> None:
    own = ["model=tiny", *TEXTS]
    planned = plan(name, own, Workbench(), absent_ok=True)
    found = forecast(planned.experiments, RESULTS)
    assert found.seconds is not None
    assert not found.downloads
    assert all(job.recorded is False for job in found.jobs)
    n_left_out = sum(map(len, planned.left_out.values()))
    n_merged = sum(map(len, planned.merged.values()))
    assert len(planned.experiments) == len(expand(name, own)) - n_left_out - n_merged
