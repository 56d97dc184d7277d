"""Exports: equal bits in other people's loaders, and nothing left behind when they are not."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import nowag_exp.formats.export
import nowag_exp.formats.folder
from nowag_exp.cli import main
from nowag_exp.formats import DenseWeight, IntegerWeight
from nowag_exp.formats.folder import MANIFEST
from nowag_exp.manifest import write_manifest
from nowag_exp.ops.grids import Grid
from nowag_exp.quiet import quiet_libraries

KINDS = (
    "sparse",
    "sparse 2:4",
    "codebook",
    "codebook without norms",
    "integer",
    "integer symmetric",
    "sparse integer",
)
IDS = torch.arange(24).reshape(2, 12)
Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]):
    """Run the command in this process: exit code, stdout, stderr."""

    def _cli(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main(["export", *map(str, arguments)])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        out, err = capfd.readouterr()
        return code, out, err

    return _cli


@torch.inference_mode()
def logits(folder: Path, **options: Any) -> Tensor:
    with quiet_libraries():
        return AutoModelForCausalLM.from_pretrained(folder, **options)(IDS).logits


def content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".locks"}


def integers(bits: int, symmetric: bool, group: int | None, scales: Tensor | None = None):
    """A maker for ``pack``: linears of one grid; ``scales`` are drawn from if given."""

    def _make(name: str, d_out: int, d_in: int, seed: int) -> IntegerWeight:
        randoms = torch.Generator().manual_seed(seed)
        n_groups = d_in // (group or d_in)
        codes = torch.randint(2**bits, (d_out, d_in), generator=randoms).to(torch.uint8)
        drawn = torch.rand(d_out, n_groups, generator=randoms).half().float() / 2**bits
        if scales is not None:
            drawn = scales[torch.randint(len(scales), drawn.shape, generator=randoms)]
        zeros = torch.randint(2**bits, drawn.shape, generator=randoms)
        return IntegerWeight.of(codes, Grid(drawn.half().float(), zeros), bits, symmetric)

    return _make


@pytest.mark.parametrize("kind", KINDS)
def test_dense_is_the_checkpoint_of_the_decompressed_values(cli, pack, kind: str) -> None:
    pair = pack(kind, "bfloat16")
    code, out, err = cli(pair.folder, "--to", "dense")
    assert (code, err) == (0, "")
    folder = Path(f"{pair.folder}-dense")
    assert out.splitlines()[0].startswith(f"wrote {folder} (")
    assert "all 7 compressed linears are equal bit for bit" in out
    assert f'load it with: AutoModelForCausalLM.from_pretrained("{folder}")' in out
    found, expected = load_file(folder / "model.safetensors"), load_file(pair.reference / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, expected[name])
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert content(folder) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert torch.equal(logits(folder), logits(pair.reference))


def test_dense_keeps_tied_embeddings_biases_and_shards(cli, pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nowag_exp.formats.folder, "SHARD_BYTES", 8000)
    pair = pack("codebook", tie_word_embeddings=True, attention_bias=True)
    code, _, err = cli(pair.folder, "--to", "dense", "--out", pair.folder.parent / "new" / "place")
    assert (code, err) == (0, "")
    folder = pair.folder.parent / "new" / "place"
    assert "model.safetensors.index.json" in content(folder)
    assert torch.equal(logits(folder), logits(pair.reference))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, None])
def test_compressed_tensors_holds_integers_of_every_width(cli, pack, bits, symmetric, group) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import CompressedTensorsConfig

    pair = pack(make=integers(bits, symmetric, group))
    code, out, err = cli(pair.folder, "--to", "compressed-tensors")
    assert (code, err) == (0, "")
    folder = Path(f"{pair.folder}-compressed-tensors")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    scheme = config["config_groups"]["group_0"]
    assert (config["quant_method"], config["format"], config["ignore"]) == (
        "compressed-tensors",
        "pack-quantized",
        ["lm_head"],
    )
    assert scheme["targets"] == ["Linear"]
    described = {key: scheme["weights"][key] for key in ("num_bits", "symmetric", "strategy", "group_size")}
    strategy = "group" if group else "channel"
    assert described == {"num_bits": bits, "symmetric": symmetric, "strategy": strategy, "group_size": group}
    stored = {name.rpartition(".")[2] for name in load_file(folder / "model.safetensors") if name.startswith(Q)}
    assert stored == {"weight_packed", "weight_scale", "weight_shape"} | (set() if symmetric else {"weight_zero_point"})
    if not symmetric:
        assert "quantization_config=CompressedTensorsConfig(dequantize=True))" in out
        assert "dequantize=True is needed: transformers cannot load packed zero points" in out
        with pytest.warns(UserWarning, match="loading attributes"):
            found = logits(folder, quantization_config=CompressedTensorsConfig(dequantize=True))
    else:
        assert "dequantize=True" not in out
        found = logits(folder)
    assert torch.equal(found, logits(pair.reference))


@pytest.mark.parametrize(
    ("dtype", "exact", "stored"),
    [
        ("float32", False, torch.float32),
        ("float16", False, torch.float16),
        ("bfloat16", True, torch.bfloat16),
        ("bfloat16", False, torch.float32),
    ],
)
def test_compressed_tensors_stores_scales_in_a_type_that_keeps_the_bits(cli, pack, dtype, exact, stored) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import CompressedTensorsConfig

    # bf16 has 8 bits of significand, fp16 11: the last scale fits fp16 alone, and times 7 it shows in bf16, too.
    scales = torch.tensor([0.5, 0.25] if exact else [0.5, 1 + 3 * 2**-9]) / 16
    pair = pack(dtype=dtype, make=integers(4, True, 16, scales))
    code, out, err = cli(pair.folder, "--to", "compressed-tensors")
    assert (code, err) == (0, "")
    folder = Path(f"{pair.folder}-compressed-tensors")
    assert load_file(folder / "model.safetensors")[f"{Q}.weight_scale"].dtype == stored
    reference = logits(pair.reference)
    if stored == getattr(torch, dtype):
        assert torch.equal(logits(folder), reference)
        assert "dequantize=True" not in out
    else:
        assert "dequantize=True is needed: loaded packed, its scales would be rounded to bfloat16" in out
        assert not torch.equal(logits(folder), reference)
        with pytest.warns(UserWarning, match="loading attributes"):
            assert torch.equal(logits(folder, quantization_config=CompressedTensorsConfig(dequantize=True)), reference)


def test_compressed_tensors_leaves_dense_linears_alone(cli, pack) -> None:
    pytest.importorskip("compressed_tensors")
    some = integers(4, True, 16)

    def make(name: str, d_out: int, d_in: int, seed: int) -> Any:
        return DenseWeight.of(torch.ones(d_out, d_in)) if name == K else some(name, d_out, d_in, seed)

    pair = pack(make=make)
    code, out, err = cli(pair.folder, "--to", "compressed-tensors")
    assert (code, err) == (0, "")
    assert "all 6 compressed linears" in out
    folder = Path(f"{pair.folder}-compressed-tensors")
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["ignore"] == ["lm_head", K]
    assert torch.equal(logits(folder), logits(pair.reference))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("integer")])
def test_what_compressed_tensors_cannot_hold_is_sent_to_dense(cli, pack, kind: str) -> None:
    pytest.importorskip("compressed_tensors")
    pair = pack(kind)
    before = content(pair.folder.parent)
    code, out, err = cli(pair.folder, "--to", "compressed-tensors")
    assert (code, out) == (2, "")
    name = "sparse_integer" if kind == "sparse integer" else kind.split()[0]
    assert err.startswith(f"error: {Q}: its format is {name}, and compressed-tensors has no counterpart")
    assert err.endswith("use --to dense\n")
    assert content(pair.folder.parent) == before


@pytest.mark.parametrize("other", [(4, True, 16), (3, False, 16), (3, True, 8), (3, True, None)])
def test_grids_that_differ_between_linears_are_sent_to_dense(cli, pack, other: tuple[int, bool, int | None]) -> None:
    pytest.importorskip("compressed_tensors")

    def make(name: str, *rest: int) -> Any:
        return integers(*(other if name == K else (3, True, 16)))(name, *rest)

    code, out, err = cli(pack(make=make).folder, "--to", "compressed-tensors")
    assert (code, out) == (2, "")
    assert f"error: {K}: its bits, group size or symmetry are not those of {Q}" in err
    assert "use --to dense" in err


@pytest.mark.parametrize("to", ["dense", "compressed-tensors"])
def test_an_export_that_loads_to_other_bits_is_an_error_and_is_not_kept(
    cli, pack, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("compressed_tensors")
    pair = pack("integer symmetric")
    before = content(pair.folder.parent)
    write = nowag_exp.formats.folder.FolderWriter.add_tensor

    def spoil(writer: Any, name: str, tensor: Tensor) -> None:
        spoilt = name.startswith(K) and tensor.is_floating_point()
        write(writer, name, torch.nextafter(tensor, tensor + 1) if spoilt else tensor)

    monkeypatch.setattr(nowag_exp.formats.export.FolderWriter, "add_tensor", spoil)
    code, out, err = cli(pair.folder, "--to", to)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {K}.weight: what transformers loads from the export is not what the packed folder")
    assert content(pair.folder.parent) == before


def test_an_export_that_transformers_cannot_load_is_an_error_and_is_not_kept(
    cli, pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pack("integer")
    before = content(pair.folder.parent)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ValueError("this is no model")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    code, out, err = cli(pair.folder, "--to", "dense")
    assert (code, out) == (1, "")
    assert err == (
        "error: the export was not kept: transformers cannot load it (this is no model); "
        "check it with another version of transformers, and report this as a bug\n"
    )
    assert content(pair.folder.parent) == before


def test_zero_and_minus_zero_are_not_the_same_bits() -> None:
    zero = torch.zeros(2, 2)
    assert not nowag_exp.formats.export._same_bits(zero, -zero)
    assert nowag_exp.formats.export._same_bits(zero, zero.clone())


def test_a_folder_that_is_there_is_not_overwritten(cli, pack) -> None:
    pair = pack()
    (pair.folder.parent / "mine").mkdir()
    code, out, err = cli(pair.folder, "--to", "dense", "--out", pair.folder.parent / "mine")
    assert (code, out) == (2, "")
    assert "mine: is there already; remove it, or name another folder with --out DIR" in err
    assert list((pair.folder.parent / "mine").iterdir()) == []


def test_the_default_folder_stands_beside_one_that_is_named_by_a_dot(
    cli, pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pack()
    monkeypatch.chdir(pair.folder)
    code, _, err = cli(".", "--to", "dense")
    assert (code, err) == (0, "")
    assert (pair.folder.parent / "packed-dense" / "config.json").is_file()


def test_a_place_that_cannot_be_written_is_refused(cli, pack) -> None:
    pair = pack()
    code, _, err = cli(pair.folder, "--to", "dense", "--out", pair.folder / "config.json" / "x")
    assert code == 2
    assert "cannot be written; name another folder with --out DIR" in err


def test_without_the_library_the_extra_to_install_is_named(cli, pack, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pack("integer")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "compressed_tensors" else find(name))
    code, _, err = cli(pair.folder, "--to", "compressed-tensors")
    assert code == 2
    assert err == (
        "error: export --to compressed-tensors: the package compressed-tensors is not installed; "
        "run pip install .[export]\n"
    )


def test_folders_that_are_not_packed_or_are_damaged_are_refused(cli, pack) -> None:
    pair = pack()
    for folder, message in (
        (pair.reference, "holds no linears packed by nowag_exp; give a folder that checkpoint.save=true wrote"),
        (pair.folder.parent / "nowhere", "has no readable config.json"),
    ):
        code, out, err = cli(folder, "--to", "dense")
        assert (code, out) == (2, "")
        assert message in err
    weights = pair.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, out, err = cli(pair.folder, "--to", "dense")
    assert (code, out) == (2, "")
    assert "model.safetensors: is not the file that was written" in err
    assert not Path(f"{pair.folder}-dense").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", MANIFEST])
def test_a_folder_that_lost_a_file_is_not_exported(cli, pack, name: str) -> None:
    pair = pack()
    (pair.folder / name).unlink()
    code, out, err = cli(pair.folder, "--to", "dense")
    assert (code, out) == (2, "")
    assert err == (
        f"error: {pair.folder / name}: is missing; copy it again or remove the folder and run its experiment again "
        "(checkpoint.save=true)\n"
    )
    assert not Path(f"{pair.folder}-dense").exists()


def test_a_config_without_a_dtype_is_refused(cli, pack) -> None:
    pair = pack()
    config = json.loads((pair.folder / "config.json").read_text())
    del config["dtype"]
    (pair.folder / "config.json").write_text(json.dumps(config))
    write_manifest(pair.folder / MANIFEST)
    code, _, err = cli(pair.folder, "--to", "dense")
    assert code == 2
    assert "config.json: dtype must be one of float32, float16, bfloat16; got None" in err


def test_the_target_must_be_one_of_those_there_are(cli, pack) -> None:
    code, _, err = cli(pack().folder, "--to", "gguf")
    assert code == 2
    assert "invalid choice: 'gguf'" in err
    assert "dense" in err
