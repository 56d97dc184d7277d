"""The arithmetic of the benchmarks, and that runs can be compared; no timing is asserted."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import __main__ as command
from benchmarks import gpu, memory, results
from benchmarks.children import run_child
from benchmarks.forward import forward_operations
from benchmarks.packing import plain_pack, plain_unpack
from benchmarks.rates import measure
from benchmarks.sweep import SWEEP, moment_operations
from benchmarks.timing import Comparison, Rates, Wanted, Work, compare
from nowag_exp.compose import compose
from nowag_exp.config import build, build_experiment
from nowag_exp.errors import NowagError, RequestError
from nowag_exp.models import Architecture, ModelSource
from nowag_exp.ops.kernels import kmeans_numba
from nowag_exp.ops.packing import pack, unpack
from nowag_exp.sweep import expand

CPU = torch.device("cpu")
RATES = Rates(product=100.0, half_product=200.0, scalar=10.0, bandwidth=1000.0)
SMALL = Architecture(
    hidden_size=128, intermediate_size=192, n_blocks=2, n_heads=4, n_kv_heads=4, head_dim=32, vocabulary=258, tied=False
)


def row(name: str, *ratios: float) -> Comparison:
    return Comparison(name, 1.0, 2.0, ratios, 0.25, Wanted(ratio=1.5))


@pytest.fixture
def run_of(monkeypatch: pytest.MonkeyPatch):
    # Made once: it asks git and every library.
    provenance = {
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "libraries": {"torch": "2.13.0"},
        "machine": {"processor": "P", "cores": 2, "gpu": None},
        "threads": 2,
    }
    monkeypatch.setattr(results, "provenance", lambda device: provenance)

    def make(*rows: Comparison) -> results.Run:
        return results.new_run("run --full", CPU, RATES, list(rows))

    return make


@pytest.mark.parametrize(
    ("work", "floor"),
    [
        (Work(product=200.0), 2.0),
        (Work(scalar=30.0), 3.0),
        (Work(product=200.0, scalar=30.0), 5.0),  # one after the other
        (Work(product=200.0, moved=4000.0), 4.0),  # memory works beside arithmetic
        (Work(product=200.0, moved=1000.0), 2.0),
        (Work(scalar=10.0).times(3), 3.0),
    ],
)
def test_a_floor_is_operations_over_rate_or_bytes_over_bandwidth(work: Work, floor: float) -> None:
    assert work.floor(RATES) == floor


def test_the_operations_of_a_forward_are_those_counted_by_hand() -> None:
    # One block, hidden 2, one head of 2, MLP of 3: 4·4 + 3·6 = 34 weights. Two windows of 4 tokens.
    sizes = Architecture(
        hidden_size=2, intermediate_size=3, n_blocks=1, n_heads=1, n_kv_heads=1, head_dim=2, vocabulary=5, tied=True
    )
    # Causal attention: token t takes t + 1 products of length 2 for scores and as many for values; 4 tokens, about half
    # of 2 · (4 · 4) · 2 multiply-adds.
    assert forward_operations(sizes, 2, 4, head=False) == 8 * 2 * 34 + 2 * (2 * 2 * 4 * 4 * 2) / 2
    assert forward_operations(sizes, 2, 4, head=True) == forward_operations(sizes, 2, 4, head=False) + 8 * 2 * 2 * 5
    # Sites of 2, 2, 2 and 3 inputs, half of a product each.
    assert moment_operations(sizes) == 4 + 4 + 4 + 9


def test_a_comparison_gives_the_median_ratio_and_the_times_of_its_floor() -> None:
    comparison = row("a", 3.0, 1.0, 2.0)
    assert comparison.ratio == 2.0
    assert comparison.floors == 4.0
    assert replace(comparison, floor=None).floors is None
    assert replace(comparison, ratios=()).ratio is None


@pytest.mark.parametrize(
    ("wanted", "reached"),
    [
        (Wanted(), True),
        (Wanted(ratio=2.0), True),
        (Wanted(ratio=2.1), False),
        (Wanted(floors=4.0), True),
        (Wanted(floors=3.9), False),
        (Wanted(at_most=1.0), True),
        (Wanted(at_most=0.9), False),
        (Wanted(ratio=1.0, at_most=0.9), False),
    ],
)
def test_what_is_wanted_is_reached_or_not(wanted: Wanted, reached: bool) -> None:
    assert replace(row("a", 2.0), wanted=wanted).is_reached is reached


def test_both_are_timed_in_turn_after_a_round_that_is_not_counted() -> None:
    calls: list[str] = []
    found = compare("a", lambda: calls.append("ours"), lambda: calls.append("plain"), 2, None, Wanted())
    assert calls == ["plain", "ours", "ours", "plain", "plain", "ours"]
    assert len(found.ratios) == 2


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ((2.0, 2.1, 2.2), (1.0, 1.1, 1.2), "SLOWER"),
        ((1.0, 1.1, 1.2), (2.0, 2.1, 2.2), "faster"),
        ((2.0, 2.1, 2.2), (1.5, 1.6, 2.05), ""),  # the rounds overlap: noise
        ((2.00, 2.01, 2.02), (1.97, 1.98, 1.99), ""),  # apart, but by too little to matter
        ((2.0,), (1.8,), ""),  # one round each: a little less may be noise
        ((2.0,), (1.0,), "SLOWER"),
        ((), (), ""),
    ],
)
def test_only_what_got_slower_beyond_the_spread_of_the_rounds_is_marked(
    before: tuple[float, ...], after: tuple[float, ...], marked: str
) -> None:
    assert results.verdict(row("a", *before), row("a", *after)) == marked


def test_a_run_is_read_back_as_it_was(run_of, tmp_path: Path) -> None:
    run = run_of(row("a", 2.0, 3.0), Comparison("b", 5.0, None, (), None, unit="MB", details={"x": 1.0}))
    path = results.save(run, tmp_path)
    assert path.name == f"{run.made_at[:19].replace(':', '')}-012345678.json"
    assert results.load(path) == run
    table = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "| a | 1.000 s | 2.000 s | 2.50 | 0.250 s | 4.00 | ratio 1.5 |" in table
    assert "| b | 5 MB | - | - | - | - | - |" in table
    assert "`python -m benchmarks run --full` on 2 cores of P, 2 threads, torch 2.13.0, commit 012345678;" in table


def test_two_runs_stand_side_by_side(run_of) -> None:
    a = run_of(row("kernel", 4.0, 4.1, 4.2), row("same", 2.0, 2.1, 2.2), row("gone", 1.0))
    b = run_of(row("kernel", 2.0, 2.05, 2.1), row("same", 2.0, 2.1, 2.2), row("new", 1.0))
    kernel, same, *rest = results.compare_runs(a, b).splitlines()[1:]
    assert kernel.split()[-5:] == ["s", "4.10", "2.05", "0.50", "SLOWER"]
    assert same.split()[-1] == "1.00"
    assert rest == ["only in A: gone", "only in B: new"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": "run"}, "cannot compare: command is 'run --full' in A and 'run' in B; run both alike"),
        ({"comparisons": []}, "cannot compare: A and B have no comparison in common; run the same parts for both"),
    ],
)
def test_runs_that_are_not_alike_are_not_compared(run_of, change: dict[str, object], message: str) -> None:
    run = run_of(row("a", 1.0))
    with pytest.raises(RequestError) as raised:
        results.compare_runs(run, replace(run, **change))
    assert str(raised.value) == message


def test_runs_of_other_machines_are_not_compared(run_of) -> None:
    run = run_of(row("a", 1.0))
    other = {**run.provenance, "threads": 4}
    with pytest.raises(RequestError, match="threads is 2 in A and 4 in B"):
        results.compare_runs(run, replace(run, provenance=other))


def test_compare_fails_if_something_got_slower(run_of, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = results.save(run_of(row("a", 4.0, 4.1, 4.2)), tmp_path / "old")
    new = results.save(run_of(row("a", 2.0, 2.1, 2.2)), tmp_path / "new")
    assert command.main(["compare", str(old), str(old)]) == 0
    assert command.main(["compare", str(old), str(new)]) == 1
    assert "SLOWER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mask"], "error: mask: no such part; there are: masks, forward,"),
        (["memory"], "error: memory: takes long and has no quick form; add --full"),
        (["gpu"], "error: gpu: torch sees no GPU; install the CUDA build of torch on a machine that has one"),
        (["llmcompressor", "awq"], "error: awq: no such method; there are: sparsegpt, wanda, gptq"),
        (["compare", "none.json", "none.json"], "error: none.json: cannot be read (No such file or directory);"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


def test_an_unknown_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--fast"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --fast; see python -m benchmarks --help\n"


def test_a_file_that_is_no_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("{", "[]", '{"schema_version": 99}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match="is no run of the benchmarks of this version"):
            results.load(path)


def test_what_was_measured_before_a_part_failed_is_kept(
    run_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def rows():
        yield row("a", 2.0)
        raise NowagError("broken")

    with pytest.raises(NowagError, match="broken"):
        command._print_and_keep(rows(), ["masks"], CPU, lambda: RATES)
    (path,) = results.FOLDER.glob("*.json")
    assert results.load(path).comparisons == [row("a", 2.0)]


def test_rates_are_measured() -> None:
    rates = measure(CPU, size=64, n_values=1 << 16)
    assert all(0 < rate < math.inf for rate in rates)


def test_a_child_is_charged_what_it_used() -> None:
    cost = run_child((sys.executable, "-c", "held = b'x' * 300_000_000"))
    assert cost.peak_bytes > 300_000_000
    # Not what this process holds, which has torch in it.
    assert run_child((sys.executable, "-c", "")).peak_bytes < 50_000_000


def test_a_child_that_fails_is_named_with_the_last_line_it_printed() -> None:
    with pytest.raises(NowagError) as raised:
        run_child((sys.executable, "-c", "import sys; sys.exit('no good')"))
    assert str(raised.value) == f"{sys.executable} -c: ended with 1: no good"


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_the_plain_packing_is_that_of_the_format(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 12))
    drawn = data.draw(st.lists(st.integers(0, (1 << width) - 1), min_size=1, max_size=40))
    values = torch.tensor(drawn, dtype=torch.int32)
    packed = plain_pack(values, width)
    assert torch.equal(packed, pack(values, width))
    assert torch.equal(plain_unpack(packed, width, len(values)), unpack(packed, width, len(values)))


def test_the_sweep_is_eight_methods_that_share_one_pass() -> None:
    experiments = [build_experiment(compose(job)) for job in expand(SWEEP, [])]
    assert len({experiment.method.name for experiment in experiments}) == 8
    calibrated = [experiment for experiment in experiments if experiment.calibration]
    assert len(calibrated) == 5
    assert {experiment.method.propagate for experiment in calibrated} == {"dense"}
    assert len({str(experiment.identity["calibration"]) for experiment in calibrated}) == 1


def test_the_models_of_random_weights_are_whole_checkpoints(tmp_path: Path) -> None:
    memory.write_model(tmp_path / "model", 2, SMALL)
    config = compose(["model=local", f"model.path={tmp_path / 'model'}", "model.context_length=64"])
    source = build(config["model"], "model", ModelSource)
    assert source.sizes() == SMALL
    source.check()
    assert source.load(CPU).n_blocks == 2


VQ = replace(gpu.VQ, d=2, bits=2.0, iterations=3)


def test_the_gpu_part_measures_every_kernel_and_both_methods() -> None:
    rows = list(gpu.run(CPU, RATES, SMALL, quick=True, vq=VQ))
    kernels = [name.split(",")[0] for name in (found.name for found in rows)]
    assert kernels == [
        "weighted assignment",
        "centroid update",
        "k-means++ start",
        "SparseGPT",
        "GPTQ",
        "mask at 50%",
        "mask at 2:4",
        "unpacking with lookup",
        "decode product",
        "NoWag-P 50%",
        "NoWag-VQ d 2",
    ]
    assert all(found.floor and found.ours > 0 for found in rows)
    assert "7 linears" in rows[-1].name
    assert 1 <= rows[-1].details["Lloyd steps a linear"] <= 3


def test_the_floor_of_vector_quantization_counts_its_steps() -> None:
    points = gpu.Points(torch.zeros(4, 8, 2), torch.ones(4, 2), torch.zeros(16, 2))
    # 32 points, 16 codewords, 2 multiply-adds each.
    assert points.assignment_work() == Work(scalar=32 * 16 * 2 * 2, moved=4 * 64)
    # A pick reads 64 values and 32 distances and writes these, 4 bytes each.
    assert points.start_work(16).moved == 16 * (4 * 64 + 2 * 4 * 32)


def test_a_wrong_kernel_is_found_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kmeans_numba.assign

    def wrong(*points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assignments, distances = right(*points)
        return assignments, distances + 1

    monkeypatch.setattr(kmeans_numba, "assign", wrong)
    with pytest.raises(NowagError, match="weighted assignment: differs from its plain torch twin"):
        next(gpu.kmeans_rows(CPU, RATES, SMALL, VQ))
