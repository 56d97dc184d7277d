"""Fixtures shared by all tests: a tiny model and texts in a temporary cache, so that nothing is downloaded."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nowag_exp.config import Experiment
    from nowag_exp.evaluation import Metric
    from nowag_exp.models import CausalLM
    from nowag_exp.records.record import RunRecord

# Before transformers or huggingface_hub are imported: a test that reaches for the hub must fail, not wait.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is: workers side by side would each start a thread a core, and wait for those of the others.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
# Triton decides when it is imported whether it interprets; the kernels for GPUs are tested without one.
os.environ["TRITON_INTERPRET"] = "1"

PROSE = (
    "The aardvark digs at night and sleeps through the heat of the day. Its tongue is long, its teeth have no enamel, "
    "and its ears can be folded flat to keep out the dust. Farmers dislike the holes, foxes and hyenas move into them. "
)


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that all tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workplace(tmp_path: Path, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with two texts, and the shared cache."""
    monkeypatch.setenv("NOWAG_EXP_CACHE", str(tiny_cache))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cal.txt").write_text(PROSE * 8, encoding="utf-8")
    (tmp_path / "eval.txt").write_text(PROSE[::-1] * 4, encoding="utf-8")
    return tmp_path


@pytest.fixture
def model(workplace: Path) -> "CausalLM":
    """The tiny model, loaded."""
    # Not at the top: the shape checks are put in when a module is first imported, after this file.
    import torch

    from nowag_exp.compose import compose
    from nowag_exp.config import build
    from nowag_exp.models import ModelSource

    return build(compose(["model=tiny"])["model"], "model", ModelSource).load(torch.device("cpu"))


@pytest.fixture
def memory_of(monkeypatch: pytest.MonkeyPatch) -> "Callable[[CausalLM, int], list[tuple[int, int]]]":
    """Lets no more than so many tokens fit into memory at once; gives the shapes of the parts that are computed."""
    import torch

    def limit(model: "CausalLM", n_tokens: int) -> list[tuple[int, int]]:
        plain, parts = model._forward, []

        def forward(block: "torch.nn.Module", hidden: "torch.Tensor", *others: object) -> "torch.Tensor":
            # The block is run first, so that what listens to it has heard of it.
            output = plain(block, hidden, *others)
            if hidden.shape[0] * hidden.shape[1] > n_tokens:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            parts.append(tuple(hidden.shape[:2]))
            return output

        monkeypatch.setattr(model, "_forward", forward)
        return parts

    return limit


@pytest.fixture
def short_memory(
    monkeypatch: pytest.MonkeyPatch, memory_of: "Callable[[CausalLM, int], Any]"
) -> "Callable[[int], None]":
    """Lets the models of all experiments from then on compute no more than so many tokens at once."""
    from nowag_exp.experiment import Workbench

    def limit(n_tokens: int) -> None:
        plain = Workbench.model

        def small(bench: Workbench, *others: Any) -> "CausalLM":
            model = plain(bench, *others)
            memory_of(model, n_tokens)
            return model

        monkeypatch.setattr(Workbench, "model", small)

    return limit


@pytest.fixture(scope="session")
def killed() -> type[BaseException]:
    """Like SIGKILL: nothing of ours catches it, and what is on the disk is what a kill would have left."""
    return type("Killed", (BaseException,), {})


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch, killed: type[BaseException]) -> "Callable[[Experiment, int | None], int]":
    """Be killed at the n-th step of any stage; returns how many steps there were."""
    from nowag_exp import progress
    from nowag_exp.execution import run_all
    from nowag_exp.experiment import Workbench
    from nowag_exp.progress import Reporter

    bench = Workbench()  # It gives each run the model with its original weights.

    def _die_at(experiment: "Experiment", step: int | None) -> int:
        steps = 0

        def check() -> None:
            nonlocal steps
            steps += 1
            if steps == step:
                raise killed

        with monkeypatch.context() as patch:
            patch.setattr(progress.interrupt, "check", check)
            try:
                run_all([experiment], bench, Reporter())
            except killed:
                pass
        return steps

    return _die_at


TINY_RUN = [
    "model=tiny",
    "calibration=files",
    "calibration.path=cal.txt",
    "evaluation=files",
    "evaluation.files.path=eval.txt",
    "evaluation.files.n_windows=4",
]


@pytest.fixture
def tiny_run() -> list[str]:
    """Overrides of an experiment that takes a second in ``workplace``."""
    return list(TINY_RUN)


def _record(
    fingerprint: str,
    method: str,
    losses: list[float],
    *,
    model: str = "llama",
    token_hash: str = "f00",
    bits: float = 8.75,
    seed: int = 0,
    metrics: "list[Metric] | None" = None,
) -> "RunRecord":
    """Of a method whose perplexity, for easy sums, is the mean of its losses."""
    from nowag_exp.calibration import CompressedLinear
    from nowag_exp.evaluation import Metric
    from nowag_exp.records.record import SCHEMA_VERSION, Compression, Costs, Inputs, Labels, RunRecord, StageCost

    dense = method == "dense"
    value = sum(losses) / len(losses)
    calibration = {"text": "t", "seed": seed, "n_sequences": 8, "context_length": 512}
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint,
        identity={
            "model": model,
            "calibration": None if dense else calibration,
            "method": {"class": method, "version": 1, "name": method, "dampening": 0.01},
            "evaluation": {},
        },
        config={"b": [1, None]},
        labels=Labels(
            model=model,
            method=method,
            settings=None if dense else "2:4",
            propagate=None if dense else "dense",
            calibration=None if dense else "wiki_sample",
            n_sequences=None if dense else 8,
            context_length=None if dense else 512,
            seed=None if dense else seed,
        ),
        inputs=Inputs({"config.json": "aa"}, None if dense else "bb"),
        compression=Compression(
            n_weights=100,
            sparsity=0.0 if dense else 0.5,
            bits_per_weight=32.0 if dense else bits,
            n_parameters=150,
            bits_per_parameter=32.0 if dense else 16.5,
            n_bytes=600 if dense else 310,
            linears=[CompressedLinear("x.q_proj", (10, 10), 50, "sparse", 875, 0.25)],
        ),
        metrics=[Metric("perplexity", "wiki_sample@512", value, 0.25, token_hash, len(losses), losses, {})]
        if metrics is None
        else metrics,
        items_sha256=None,
        irregularities=[],
        provenance={"nowag_exp": "0"},
        costs=Costs("2026-01-01", "2026-01-02", {"load": StageCost(0.1, None, None)}),
    )


@pytest.fixture(scope="session")
def make_record() -> "Callable[..., RunRecord]":
    """Makes a record without an experiment."""
    return _record


@pytest.fixture(scope="session")
def rewrite_record() -> "Callable[[Path, dict[str, Any]], None]":
    """Writes the JSON of a record that a test has changed, with the checksum that it then has."""
    from pydantic import TypeAdapter

    from nowag_exp.records.record import RunRecord

    def _rewrite(path: Path, content: "dict[str, Any]") -> None:
        fields = {name: value for name, value in content.items() if name != "checksum"}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TypeAdapter(RunRecord).validate_python(fields).to_json(), encoding="utf-8")

    return _rewrite
