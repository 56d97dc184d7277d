"""Against llmcompressor: SparseGPT, Wanda and GPTQ on SmolLM2-135M, whole processes on the same calibration tokens.

Theirs runs in an environment of its own (``benchmarks/llmcompressor.txt``), made when it is first needed, from
``llmcompressor_run.py``: import, load, compress, save. Ours is ``nowag-exp run checkpoint.save=true``, which besides
evaluates one window. Both take 50% or 4 bits in groups of 64 on asymmetric grids in a fixed order of activations,
calibrate every block on the compressed ones before it, four windows at a time, on the same number of threads, with the
files in the disk cache. The perplexity of both is measured by the same code of ours, on the plain checkpoint that each
result stands for.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.children import COMMAND, run_child
from benchmarks.timing import Comparison, Wanted
from nowag_exp.compose import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.experiment import Workbench
from nowag_exp.files import cache_dir, locked, sha256_file
from nowag_exp.layout import among

HERE = Path(__file__).parent
CONSTRAINTS = HERE / "llmcompressor.txt"

METHODS: dict[str, tuple[str, ...]] = {
    "sparsegpt": (),
    "wanda": (),
    # Theirs by default: columns by descending activation, on grids of the original groups.
    "gptq": ("method.act_order=true", "method.static_groups=true"),
}

N_SEQUENCES = 32
SHARED = (f"calibration.n_sequences={N_SEQUENCES}", "evaluation.fidelity=false")

EVALUATED_WINDOWS = 32
FASTER = 1.5
EQUAL = 0.99
"""Perplexities this near are equal: ours keeps values in 16 bits, and which of two equal scores goes is a choice."""

MB = 1e6


def run(methods: Sequence[str]) -> Iterator[Comparison]:
    """Both of each method; all of them if none is named."""
    if unknown := [name for name in methods if name not in METHODS]:
        raise RequestError(f"{unknown[0]}: no such method{among(unknown[0], list(METHODS))}")
    python = environment()
    with tempfile.TemporaryDirectory(prefix="nowag_exp-benchmark-") as name:
        folder = Path(name)
        base = build_experiment(compose([*SHARED]))
        tokens = folder / "tokens.safetensors"
        save_file({"ids": Workbench().tokens(base, "calibration").ids.contiguous()}, tokens)
        for method in methods or METHODS:
            yield from compare_method(method, base, tokens, folder, python)


def compare_method(method: str, base: Experiment, tokens: Path, folder: Path, python: Path) -> Iterator[Comparison]:
    """Seconds, peak memory and perplexity."""
    model = base.model.folder()
    theirs = folder / f"theirs-{method}"
    runner = (str(python), "-P", str(HERE / "llmcompressor_run.py"))  # Without the modules beside it.
    overrides = [f"method={method}", *METHODS[method], *SHARED, f"paths.results={folder / method}"]
    ours = run_child((*COMMAND, "run", *overrides, "evaluation.wiki_sample.n_windows=1", "checkpoint.save=true"))
    # A folder of its own: it writes logs where it is started.
    plain = run_child((*runner, method, str(model), str(tokens), str(theirs)), folder)
    exported = folder / f"ours-{method}-dense"
    (checkpoint,) = (folder / method / "checkpoints").glob("[!.]*")
    run_child((*COMMAND, "export", str(checkpoint), "--to", "dense", "--out", str(exported)))
    run_child((*runner, "export", str(theirs), str(theirs) + "-dense"), folder)
    perplexities = [
        perplexity(as_plain(dense, model), folder / f"measured-{dense.name}")
        for dense in (exported, Path(f"{theirs}-dense"))
    ]
    name = f"{method} against llmcompressor, {N_SEQUENCES} × {base.model.context_length} tokens"
    found = dict(zip(("perplexity", "perplexity theirs"), perplexities, strict=True))
    processor = {"processor s": ours.processor_seconds, "processor s theirs": plain.processor_seconds}
    ratio = (plain.seconds / ours.seconds,)
    yield Comparison(
        f"{name}: process", ours.seconds, plain.seconds, ratio, None, Wanted(ratio=FASTER), details=found | processor
    )
    a, b = ours.peak_bytes / MB, plain.peak_bytes / MB
    yield Comparison(f"{name}: peak memory", a, b, (b / a,), None, unit="MB")
    a, b = perplexities
    yield Comparison(f"{name}: perplexity", a, b, (b / a,), None, Wanted(ratio=EQUAL), unit="")
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)


def environment() -> Path:
    """The interpreter that llmcompressor is installed for; made once, in the cache.

    Raises:
        NowagError: with what pip said last, if that fails.
    """
    home = cache_dir() / "environments" / f"llmcompressor-{sha256_file(CONSTRAINTS)[:8]}"
    with locked(home):
        if not (home / "ready").exists():
            print(f"installing llmcompressor into {home} (once, a few minutes)", file=sys.stderr)
            shutil.rmtree(home, ignore_errors=True)
            run_child((sys.executable, "-m", "venv", str(home)))
            pip = (str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS))
            if torch.version.cuda is None:
                run_child((*pip, "--no-deps", "--index-url", "https://download.pytorch.org/whl/cpu", "torch"))
            run_child((*pip, "llmcompressor"))
            (home / "ready").touch()
    return home / "bin" / "python"


def as_plain(weights: Path, model: Path) -> Path:
    """Their values under the original ``config.json`` and tokenizer, so that only the weights differ."""
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, weights / file.name)
    return weights


def perplexity(folder: Path, results: Path) -> float:
    """Of a plain checkpoint, in float32, by the evaluation of ``nowag-exp run``."""
    overrides = ("model=local", f"model.path={folder}", "model.dtype=float32", "model.context_length=512")
    windows = f"evaluation.wiki_sample.n_windows={EVALUATED_WINDOWS}"
    run_child(
        (*COMMAND, "run", *overrides, "method=dense", windows, "evaluation.fidelity=false", f"paths.results={results}")
    )
    (record,) = (results / "runs").glob("*.json")
    metrics = json.loads(record.read_text(encoding="utf-8"))["metrics"]
    return next(float(metric["value"]) for metric in metrics if metric["name"] == "perplexity")
