"""Packed folders in transformers: equal bits by every way of loading, and no way around damage."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import nowag_exp.formats.folder as folder_module
from nowag_exp.errors import RequestError
from nowag_exp.formats import SparseWeight
from nowag_exp.formats.folder import MANIFEST, PackedFolder
from nowag_exp.formats.header import data_bytes
from nowag_exp.formats.quantizer import NowagExpConfig, PackedLinear
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
Q = "model.layers.0.self_attn.q_proj"


def load(folder: Path, **options: Any) -> Any:
    with quiet_libraries():
        model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report.values()), report
    return model


def load_dequantized(folder: Path) -> Any:
    with pytest.warns(UserWarning, match=r"loading attributes \(e.g. \['dequantize'\]\)"):
        return load(folder, quantization_config=NowagExpConfig(dequantize=True))


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    return model(IDS).logits


def packed_linears(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, PackedLinear)]


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_format_gives_the_logits_of_its_decompressed_values_packed_and_dequantized(pack, kind, dtype) -> None:
    pair = pack(kind, dtype)
    expected = logits(load(pair.reference))
    assert expected.std() > 0
    model = load(pair.folder)
    assert sorted(packed_linears(model)) == sorted(pair.weights)
    assert model.dtype == pair.dtype
    for name, weight in pair.weights.items():
        held = model.get_submodule(name).compressed.tensors()
        assert {key: (t.dtype, t.shape) for key, t in held.items()} == {
            key: (t.dtype, t.shape) for key, t in weight.tensors().items()
        }
    assert torch.equal(logits(model), expected)
    model.dequantize()
    dense = load_dequantized(pair.folder)
    for once in (model, dense):
        assert packed_linears(once) == []
        assert not hasattr(once.config, "quantization_config")
        assert torch.equal(logits(once), expected)
        for name in pair.weights:
            assert torch.equal(once.get_submodule(name).weight, pair.expected(name))


def test_dequantize_in_config_json_of_a_model_that_was_saved_again_loads_an_ordinary_one(pack, tmp_path: Path) -> None:
    pair = pack("codebook")
    as_saved_again(pair.folder)
    edit_config(pair.folder, lambda quantization: quantization.update(dequantize=True))
    model = load(pair.folder)
    assert packed_linears(model) == []
    assert torch.equal(logits(model), logits(load(pair.reference)))
    model.save_pretrained(tmp_path / "ordinary")
    assert "quantization_config" not in json.loads((tmp_path / "ordinary/config.json").read_text())
    assert torch.equal(logits(load(tmp_path / "ordinary")), logits(model))


@pytest.mark.parametrize("pattern", ["1:1", "1:2", "4:4", "7:8", "16:16", "1:32", "32:32"])
def test_every_kind_of_pattern_loads_from_its_folder(pack, pattern: str) -> None:
    n, m = map(int, pattern.split(":"))

    def pruned(name: str, d_out: int, d_in: int, seed: int) -> SparseWeight:
        randoms = torch.Generator().manual_seed(seed)
        order = torch.rand(d_out, d_in // m, m, generator=randoms).argsort(-1).argsort(-1)
        weight = torch.randn(d_out, d_in, generator=randoms) / 8
        return SparseWeight.from_mask(weight, (order < n).reshape(d_out, d_in), pattern, torch.float16)

    pair = pack(make=pruned)
    expected = logits(load(pair.reference))
    assert torch.equal(logits(load(pair.folder)), expected)
    assert torch.equal(logits(load_dequantized(pair.folder)), expected)


@pytest.mark.parametrize("other", [AutoModel, AutoModelForSequenceClassification])
def test_another_kind_of_model_than_was_packed_is_told_how_to_open_it(pack, other: Any) -> None:
    pair = pack("sparse 2:4")
    with pytest.raises(RequestError) as refused, quiet_libraries():
        other.from_pretrained(pair.folder)
    assert "AutoModelForCausalLM" in str(refused.value)
    assert "export" in str(refused.value)
    assert "remove the folder" not in str(refused.value)
    assert load(pair.folder).model is not None, "as advised"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_tied_embeddings_and_biases_are_loaded_too(pack, tied: bool, bias: bool) -> None:
    pair = pack("integer", tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias)
    expected = logits(load(pair.reference))
    model = load(pair.folder)
    assert (model.get_submodule(Q).bias is not None) == bias
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert torch.equal(logits(model), expected)
    assert torch.equal(logits(load_dequantized(pair.folder)), expected)


def test_several_shards_load_like_one(pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "SHARD_BYTES", 2000)
    pair = pack("sparse integer")
    shards = sorted(path.name for path in pair.folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert torch.equal(logits(load(pair.folder)), logits(load(pair.reference)))
    (pair.folder / shards[1]).unlink()
    for read in (load, PackedFolder.open):
        with pytest.raises(RequestError, match=rf"{shards[1]}: is missing; copy it again"):
            read(pair.folder)
    as_saved_again(pair.folder)
    for read in (load, PackedFolder.open):
        with pytest.raises(RequestError, match=rf"{shards[1]}: this shard is missing; copy it again"):
            read(pair.folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_model_that_transformers_saves_again_is_still_packed_and_equal(pack, kind, tmp_path: Path) -> None:
    pair = pack(kind, "bfloat16")
    again = tmp_path / "again"
    with quiet_libraries():
        load(pair.folder).save_pretrained(again, max_shard_size="4KB")
    model = load(again)
    assert len(list(again.glob("*.safetensors"))) > 1
    assert sorted(packed_linears(model)) == sorted(pair.weights)
    for name, weight in pair.weights.items():
        for key, tensor in model.get_submodule(name).compressed.tensors().items():
            assert torch.equal(tensor, weight.tensors()[key])
    assert torch.equal(logits(model), logits(load(pair.reference)))
    # The hashes were of other files; shapes are checked without them.
    assert "sha256" not in json.loads((again / "config.json").read_text())["quantization_config"]
    assert not (again / MANIFEST).exists()
    assert set(PackedFolder.open(again).layouts) == set(pair.weights)
    edit_config(again, lambda quantization: quantization["weights"].pop(Q))
    with pytest.raises(RequestError, match=Q):
        load(again)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}])
def test_a_device_map_changes_nothing(pack, device_map: Any) -> None:
    pair = pack("codebook")
    assert torch.equal(logits(load(pair.folder, device_map=device_map)), logits(load(pair.reference)))


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.bfloat16()])
def test_casting_a_packed_model_casts_the_decompressed_weights_only(pack, cast) -> None:
    pair = pack("codebook")
    model = cast(load(pair.folder))
    linear = model.get_submodule(Q)
    assert linear.codebook.dtype == linear.row_norms.dtype == torch.float16
    assert torch.equal(linear.dense_weight(), pair.expected(Q).bfloat16())
    assert torch.equal(logits(model), logits(cast(load(pair.reference))))


def test_loading_in_another_dtype_decompresses_to_that(pack) -> None:
    pair = pack("integer")
    model = load(pair.folder, dtype=torch.bfloat16)
    assert torch.equal(model.get_submodule(Q).dense_weight(), pair.expected(Q).bfloat16())
    assert torch.equal(logits(model), logits(load(pair.reference, dtype=torch.bfloat16)))


@pytest.mark.parametrize("order", [("nowag_exp", "transformers"), ("transformers.quantizers.auto", "nowag_exp")])
def test_the_order_of_imports_does_not_matter(order: tuple[str, str]) -> None:
    code = (
        f"import {order[0]}, {order[1]}\nfrom transformers.quantizers import auto\n"
        "print(auto.AUTO_QUANTIZER_MAPPING['nowag_exp'].__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "NowagExpQuantizer", done.stderr


def test_a_saved_experiment_reloads_to_the_losses_in_its_record(workplace: Path, tiny_run: list[str]) -> None:
    from nowag_exp.compose import compose
    from nowag_exp.config import build_experiment
    from nowag_exp.evaluation import last_states, score_windows
    from nowag_exp.experiment import Workbench, run
    from nowag_exp.models import CausalLM, Checkpoint
    from nowag_exp.progress import Reporter

    experiment = build_experiment(compose([*tiny_run, "method=rtn", "checkpoint.save=true"]))
    bench = Workbench()
    record = run(experiment, bench, Reporter())
    folder = experiment.checkpoint_folder
    assert record.compression.n_bytes == sum(data_bytes(path) for path in folder.glob("*.safetensors"))
    tokens = bench.tokens(experiment, "evaluation.files").ids
    batch = experiment.runtime.batch_tokens // tokens.shape[1]
    model = CausalLM(load_dequantized(folder), Checkpoint(folder))
    scores = score_windows(model, tokens, last_states(model, tokens.split(batch)), None, lambda: None)
    assert scores.losses.tolist() == record.metrics[0].values
    with torch.inference_mode():
        assert torch.equal(load(folder)(tokens).logits, model.module(tokens).logits)


def test_a_packed_folder_is_not_compressed_again(pack) -> None:
    from nowag_exp.models import LocalModel

    pair = pack("integer")
    source = LocalModel(context_length=64, dtype="float32", group_size=64, path=str(pair.folder))
    with pytest.raises(RequestError, match="model packed: is quantized already; give its original checkpoint"):
        source.check()


# Damage: each is a function of the folder, and what the message says.


def as_saved_again(folder: Path) -> None:
    """What transformers saves has neither a manifest nor hashes: what is in the files must speak for itself."""
    edit_config(folder, lambda quantization: quantization.pop("sha256"))
    (folder / MANIFEST).unlink()


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def edit_tensors(edit: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def _edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return _edit


def settings(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, lambda quantization: quantization.update(values))


def layout(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, lambda quantization: quantization["weights"][Q].update(values))


def weights(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, lambda quantization: edit(quantization["weights"]))


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def append(name: str) -> Callable[[Path], None]:
    """A change that leaves JSON what it was."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b" ")


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content)


def by_an_older_version(folder: Path) -> None:
    settings(format_version=1)(folder)
    (folder / MANIFEST).unlink()


AGAIN = r"remove the folder and run its experiment again \(checkpoint.save=true\)"
CHANGED = "is not the file that was written"
OF_A_SAVED_FOLDER: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, rf"packed/model.safetensors: {CHANGED} .*copy it again or {AGAIN}"),
    "a flipped bit": (flip, f"model.safetensors: {CHANGED}"),
    "no shard": (remove("model.safetensors"), rf"packed/model.safetensors: is missing; copy it again or {AGAIN}"),
    "no tokenizer": (remove("tokenizer.json"), rf"packed/tokenizer.json: is missing; copy it again or {AGAIN}"),
    "another tokenizer": (append("tokenizer.json"), rf"packed/tokenizer.json: {CHANGED} .*or {AGAIN}"),
    "another config.json": (append("config.json"), rf"packed/config.json: {CHANGED} .*or {AGAIN}"),
    "other layouts": (layout(bits_per_code=5), f"config.json: {CHANGED}"),
    "no manifest": (remove(MANIFEST), rf"packed/manifest.json: is missing; copy it again or {AGAIN}"),
    "a manifest cut off": (write(MANIFEST, '{"files": {'), rf"packed/manifest.json: cannot be read .*or {AGAIN}"),
    "a manifest of nothing": (write(MANIFEST, '{"files": {}}'), "manifest.json: lists no files"),
    "a manifest of something else": (write(MANIFEST, "[]"), "manifest.json: cannot be read"),
    "a manifest that leads outside": (
        write(MANIFEST, '{"files": {"../reference/config.json": ""}}'),
        r"manifest.json: lists '\.\./reference/config.json', which is outside the folder",
    ),
    "by an older version": (
        by_an_older_version,
        "format_version is 1, this program reads 2; use the version of nowag_exp that wrote the folder",
    ),
}


@pytest.mark.parametrize("name", OF_A_SAVED_FOLDER)
@pytest.mark.parametrize("read", [load, PackedFolder.open], ids=["from_pretrained", "PackedFolder"])
def test_a_saved_folder_that_lost_or_changed_a_file_is_refused_by_name_with_the_way_out(pack, name: str, read) -> None:
    damage, message = OF_A_SAVED_FOLDER[name]
    pair = pack("integer")
    read(pair.folder)
    damage(pair.folder)
    with pytest.raises(RequestError, match=message):
        read(pair.folder)


def test_files_that_somebody_puts_beside_those_of_a_saved_folder_change_nothing(pack) -> None:
    pair = pack("integer")
    (pair.folder / "README.md").write_text("of the hub")
    assert torch.equal(logits(load(pair.folder)), logits(load(pair.reference)))


def test_a_saved_folder_that_is_loaded_as_a_subfolder_is_held_against_its_manifest(pack) -> None:
    pair = pack("integer")
    load(pair.folder.parent, subfolder=pair.folder.name)
    (pair.folder / "tokenizer.json").unlink()
    with pytest.raises(RequestError, match=r"packed/tokenizer\.json: is missing"):
        load(pair.folder.parent, subfolder=pair.folder.name)


@pytest.fixture
def hub(pack, tmp_path: Path) -> Path:
    """The snapshot of a packed model as transformers fetches it from a hub: what it needs to load, and no more."""
    folder, commit = pack("integer").folder, "0" * 40
    of_repository = tmp_path / "hub" / "models--somebody--packed"
    (of_repository / "refs").mkdir(parents=True)
    (of_repository / "refs" / "main").write_text(commit)
    snapshot = of_repository / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    for name in (MANIFEST, "tokenizer.json"):
        (snapshot / name).unlink()
    return snapshot


def load_from(hub: Path) -> Any:
    return load("somebody/packed", cache_dir=hub.parents[2])


def test_a_packed_model_loads_from_a_hub_which_hands_out_no_manifest(hub: Path) -> None:
    assert len(packed_linears(load_from(hub))) == 7


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, rf"model.safetensors: {CHANGED} .*copy it again or {AGAIN}"),
        (settings(sha256=["x"]), r"sha256 must map shards to hashes; got \['x'\]"),
        (settings(sha256={}), f"model.safetensors: {CHANGED}"),
        (settings(sha256={"model.safetensors": 3}), f"model.safetensors: {CHANGED}"),
    ],
    ids=["a flipped bit", "hashes are no object", "no hash", "a hash of no kind"],
)
def test_a_shard_from_a_hub_is_held_against_its_hash(hub: Path, damage, message: str) -> None:
    damage(hub)
    with pytest.raises(RequestError, match=message):
        load_from(hub)


OF_ONE_SAVED_AGAIN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, rf"model.safetensors: is not a whole safetensors file .*copy it again or {AGAIN}"),
    "no shard": (remove("model.safetensors"), "model.safetensors: this shard is missing"),
    "a stray name": (
        write("model.safetensors.index.json", '{"weight_map": {"x": "../x.safetensors"}}'),
        r"names the shard '\.\./x.safetensors', which is out",
    ),
    "extra tensor": (
        edit_tensors(lambda tensors: tensors.update(stranger=torch.zeros(1))),
        rf"model.safetensors: holds stranger, which the model .* has no place for; {AGAIN}",
    ),
    "extra tensor of a linear": (
        edit_tensors(lambda tensors: tensors.update({f"{Q}.weight": torch.zeros(32, 32)})),
        f"holds {Q}.weight, which the model",
    ),
    "tensor missing": (
        edit_tensors(lambda tensors: tensors.pop(f"{Q}.scales")),
        rf"{Q}: scales is missing, config.json asks for float16\[32, 2\]; {AGAIN}",
    ),
    "tensor of another type": (
        edit_tensors(lambda tensors: tensors.update({f"{Q}.scales": tensors[f"{Q}.scales"].float()})),
        rf"{Q}: scales is float32\[32, 2\], config.json asks for float16",
    ),
    "norm missing": (
        edit_tensors(lambda tensors: tensors.pop("model.norm.weight")),
        rf"model.norm.weight: is missing, config.json asks for shape \[32\]; {AGAIN}",
    ),
    "norm of another shape": (
        edit_tensors(lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)})),
        r"model.norm.weight: is float32\[31\], config.json asks for shape \[32\]",
    ),
    "other shape": (layout(d_out=16), f"{Q}: its layout is of 16 x 32 weights, the model .* has 32 x 32"),
    "shape of no kind": (layout(d_out="32"), f"{Q}: d_out must be a non-negative int; got '32'"),
    "unknown format": (layout(format="zip"), f"{Q}: format 'zip' is unknown; there are: dense, sparse"),
    "format is no name": (layout(format=["integer"]), f"{Q}: format .* is unknown"),
    "other format": (layout(format="codebook"), f"{Q}: the layout of a weight in format codebook has"),
    "other bits": (layout(bits_per_code=5), rf"{Q}: codes is uint8\[512\], config.json asks for uint8\[640\]"),
    "bits out of range": (layout(bits_per_code=40), f"{Q}: "),
    "other symmetry": (layout(symmetric=True), f"holds {Q}.zeros, which the model"),
    "group size does not divide": (layout(group_size=15), f"{Q}: .*group_size 15 does not divide 32 columns"),
    "group size 0": (layout(group_size=0), f"{Q}: the layout of a weight in format integer cannot be"),
    "linear not listed": (
        weights(lambda layouts: layouts.pop(Q)),
        f"{Q}: its packed tensors are in the files, but quantization_config.weights .* does not list it; restore",
    ),
    "unknown linear": (
        weights(lambda layouts: layouts.update({f"{Q}s": layouts[Q]})),
        f"{Q}s: quantization_config.weights lists it, but the model .* has no such linear; restore config.json",
    ),
    "a norm for a linear": (
        weights(lambda layouts: layouts.update({"model.norm": layouts[Q]})),
        "model.norm: quantization_config.weights lists it, but the model .* has no such linear",
    ),
    "a layout is no object": (weights(lambda layouts: layouts.update({Q: 4})), f"{Q}: format None is unknown"),
    "no weights": (
        lambda folder: edit_config(folder, lambda quantization: quantization.pop("weights")),
        rf"config.json: quantization_config.weights lists no linears; {AGAIN}",
    ),
    "weights are no object": (settings(weights=["q"]), "quantization_config.weights lists no linears"),
    "other version": (
        settings(format_version=3),
        "format_version is 3, this program reads 2; use the version of nowag_exp that wrote the folder",
    ),
    "dequantize is no boolean": (settings(dequantize="no"), "dequantize must be true or false; got 'no'"),
}


@pytest.mark.parametrize("name", OF_ONE_SAVED_AGAIN)
@pytest.mark.parametrize("read", [load, PackedFolder.open], ids=["from_pretrained", "PackedFolder"])
def test_a_folder_saved_again_that_contradicts_itself_is_refused_by_name_with_the_way_out(
    pack, name: str, read
) -> None:
    damage, message = OF_ONE_SAVED_AGAIN[name]
    pair = pack("integer")
    as_saved_again(pair.folder)
    read(pair.folder)
    damage(pair.folder)
    with pytest.raises(RequestError, match=message):
        read(pair.folder)


def test_tensors_that_contradict_one_another_are_refused_by_name_when_they_are_used(pack) -> None:
    pair = pack("sparse")
    as_saved_again(pair.folder)
    edit_tensors(lambda tensors: tensors[f"{Q}.positions"].bitwise_not_())(pair.folder)
    message = rf"{Q}: positions mark \d+ weights, but there are \d+ values; {AGAIN}"
    model = load(pair.folder)
    with pytest.raises(RequestError, match=message):
        logits(model)
    with pytest.raises(RequestError, match=message):
        model.dequantize()
    with pytest.raises(RequestError, match=message):
        PackedFolder.open(pair.folder).values(Q, torch.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no readable config.json"),
        ("{", "has no readable config.json"),
        ("[]", "must hold one JSON object"),
        ("{}", "holds no linears packed by nowag_exp; give a folder that checkpoint.save=true wrote"),
        ('{"quantization_config": {"quant_method": "awq"}}', "holds no linears packed by nowag_exp"),
        (
            '{"model_type": "none", "quantization_config": {"quant_method": "nowag_exp", "format_version": 2, '
            '"weights": {"x": {}}}}',
            "config.json: architectures=None is not supported",
        ),
    ],
)
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "model.safetensors").touch()
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RequestError, match=message):
        PackedFolder.open(tmp_path)


def test_an_unknown_setting_is_refused_with_those_there_are() -> None:
    with pytest.raises(RequestError, match="quantization_config: dequantise is unknown; there are: dequantize, "):
        NowagExpConfig(dequantise=True)


def test_an_index_that_cannot_be_read_is_refused(pack) -> None:
    pair = pack("integer")
    as_saved_again(pair.folder)
    (pair.folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(RequestError, match="cannot be read"):
        PackedFolder.open(pair.folder)


def test_linears_that_are_not_packed_are_told_apart(pack) -> None:
    opened = PackedFolder.open(pack("integer").folder)
    assert opened.dense_linears == ["lm_head"]
