"""What nowag_exp/formats/README.md shows runs, and its figures are those of the formats."""

import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

import nowag_exp.formats
from nowag_exp.cli import main
from nowag_exp.formats import FORMATS

README = Path(nowag_exp.formats.__file__).with_name("README.md").read_text(encoding="utf-8")
FIGURES = re.findall(r"(?m)^\| `(\w+)` \| `([^`]*)`(?: (\d+)%)? \| ([\d.]+) \| ([\d.]+) \|$", README)
LLAMA_2_7B = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
def test_the_documented_snippets_run(pack, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("compressed_tensors")
    from nowag_exp.formats.quantizer import PackedLinear

    pair = pack("integer")
    monkeypatch.chdir(pair.folder.parent)
    (pair.folder.parent / "results/checkpoints").mkdir(parents=True)
    pair.folder.rename("results/checkpoints/FOLDER")
    (commands,) = code("sh")
    for command in commands.strip().splitlines():
        program, *arguments = shlex.split(command)
        assert program == "nowag-exp"
        assert main(arguments) == 0
    packed, once, exported = code("python")
    for snippet, n_packed in ((packed, 7), (once, 0), (exported, 0)):
        scope: dict[str, Any] = {}
        exec(snippet, scope)
        assert sum(isinstance(module, PackedLinear) for module in scope["model"].modules()) == n_packed
    assert Path("again/config.json").is_file()


def test_every_format_has_a_figure() -> None:
    assert {kind for kind, *_ in FIGURES} == set(FORMATS)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: " ".join(figure[:2]))
def test_the_documented_figures_are_those_of_the_stored_tensors(figure: tuple[str, ...]) -> None:
    kind, settings, kept, bits_per_weight, gigabytes = figure
    layout = {key: yaml.safe_load(value) for key, value in re.findall(r"(\w+)=(\S+)", settings)}
    if "pattern" in layout:
        layout["pattern"] = re.findall(r"pattern=(\S+)", settings)[0]  # YAML takes 2:4 for a number.
    if kind == "sparse":
        layout["dtype"] = "float16"
    bits = 0
    for d_out, d_in in LLAMA_2_7B:
        shaped = {**layout, "d_out": d_out, "d_in": d_in}
        if kept:
            shaped["n_kept"] = d_out * d_in * int(kept) // 100
        specs = FORMATS[kind].check(shaped)
        bits += sum(8 * math.prod(spec.shape) * spec.dtype.itemsize for spec in specs.values())
    n_weights = sum(d_out * d_in for d_out, d_in in LLAMA_2_7B)
    assert bits_per_weight == f"{bits / n_weights:.4f}"
    assert gigabytes == f"{32 * bits / 8e9:.3f}"
    assert "6.476 billion" in README
    assert f"{32 * n_weights / 1e9:.3f}" == "6.476"


@pytest.mark.parametrize(
    ("formula", "kind", "layout", "n_kept"),
    [
        (0.75 + 16 / 2, "sparse", {"pattern": "2:4", "dtype": "float16"}, 256 * 128 // 2),
        (
            8 * 43 / 128 + 16 * (2**8 * 3 + 256 + 128) / (256 * 128),
            "codebook",
            {"d": 3, "index_bits": 8, "normalised": True},
            None,
        ),
        (3 + 19 / 64, "integer", {"bits_per_code": 3, "group_size": 64, "symmetric": False}, None),
        (3 + 16 / 64, "integer", {"bits_per_code": 3, "group_size": 64, "symmetric": True}, None),
        (
            1 + 0.25 * 3 + 19 / 64,
            "sparse_integer",
            {"bits_per_code": 3, "group_size": 64, "symmetric": False, "pattern": "unstructured"},
            256 * 128 // 4,
        ),
    ],
)
def test_the_documented_formulas_are_exact_where_nothing_is_padded(
    formula: float, kind: str, layout: dict[str, Any], n_kept: int | None
) -> None:
    shaped = {**layout, "d_out": 256, "d_in": 128} | ({} if n_kept is None else {"n_kept": n_kept})
    specs = FORMATS[kind].check(shaped)
    assert sum(8 * math.prod(spec.shape) * spec.dtype.itemsize for spec in specs.values()) / (256 * 128) == formula
