import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.errors import RequestError
from nowag_exp.formats.folder import MANIFEST, FolderWriter
from nowag_exp.manifest import write_manifest
from nowag_exp.models import SITES, CausalLM, Checkpoint, LocalModel, ModelSource, damage, linear_shapes
from nowag_exp.models.checkpoint import ALL_PATTERNS
from nowag_exp.text import load_tokenizer


@pytest.fixture
def folder(workplace: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    tiny = build(compose(["model=tiny"])["model"], "model", ModelSource)
    return Path(shutil.copytree(tiny.folder(), workplace / "model"))


def shard(folder: Path) -> None:
    """Split the weights into two shards with an index, as large models have them."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def load(folder: Path) -> CausalLM:
    return CausalLM.load(Checkpoint(folder), torch.float32, torch.device("cpu"))


def test_tensors_read_the_same_from_one_file_and_from_shards(folder: Path) -> None:
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.o_proj.weight", "model.norm.weight"]
    whole = dict(Checkpoint(folder).read(names))
    shard(folder)
    sharded = dict(Checkpoint(folder).read(names))
    assert set(sharded) == set(names)
    for name, tensor in sharded.items():
        assert torch.equal(tensor, whole[name])


# The first is the original library's; transformers prefers the second, which training across machines leaves.
OTHER_WEIGHTS = ["consolidated.safetensors", "shard-00001-model-00001-of-00001.safetensors"]


@pytest.mark.parametrize("other", OTHER_WEIGHTS)
def test_weights_beside_those_of_the_model_are_neither_hashed_nor_checked_nor_loaded(folder: Path, other: str) -> None:
    hashes, original = Checkpoint(folder).hashes(), load_file(folder / "model.safetensors")
    others = {name: torch.zeros_like(tensor) for name, tensor in original.items()}
    save_file(others, folder / other)
    assert Checkpoint(folder).hashes() == hashes
    local(folder).check()
    loaded = load(folder).module.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in original.items())


def test_an_index_of_a_single_file_is_taken(folder: Path) -> None:
    names = load_file(folder / "model.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    local(folder).check()
    load(folder)


def test_restoring_brings_the_original_weights_back(folder: Path) -> None:
    shard(folder)
    model = load(folder)
    linear = model.module.model.layers[1].mlp.up_proj
    original = linear.weight.clone()
    model.replace_weight("model.layers.1.mlp.up_proj", torch.zeros_like(original))
    assert not linear.weight.any()
    model.restore()
    assert torch.equal(linear.weight, original)


def test_hashes_cover_configuration_weights_and_tokenizer_and_change_with_them(folder: Path) -> None:
    before = Checkpoint(folder).hashes()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(before)
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    after = Checkpoint(folder).hashes()
    assert {name for name in before if before[name] != after[name]} == {"config.json"}


@pytest.mark.parametrize("name", ["added_tokens.json", "vocab.txt", "spiece.model", "tekken.json"])
def test_whatever_tokens_may_be_read_from_is_hashed_saved_and_downloaded(folder: Path, name: str) -> None:
    before = Checkpoint(folder).hashes()
    (folder / name).write_text("{}")
    assert Checkpoint(folder).hashes().keys() - before.keys() == {name}
    assert folder / name in Checkpoint(folder).files_beside_weights()
    assert any(fnmatch(name, pattern) for pattern in ALL_PATTERNS)


def test_a_file_that_changes_tokens_changes_the_identity(folder: Path) -> None:
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, "<s>": 256, "</s>": 257}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    before, tokens = local(folder).identity(), load_tokenizer(folder).encode("ab")
    (folder / "added_tokens.json").write_text('{"ab": 258}')
    assert load_tokenizer(folder).encode("ab") == [258] != tokens
    assert local(folder).identity() != before


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Path.mkdir, id="folder"),
        pytest.param(lambda path: path.symlink_to("nowhere"), id="dangling link"),
        # What is told apart is a file from all else, as of a folder; only a FIFO would hang if it were read.
        pytest.param(
            lambda path: os.mkfifo(path),
            id="FIFO",
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFO to be passed over"),
        ),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer", "tokenizer.model", "generation_config.json"])
def test_what_is_no_file_is_passed_over(folder: Path, make, name: str) -> None:
    (folder / "generation_config.json").unlink()
    hashes, beside = Checkpoint(folder).hashes(), Checkpoint(folder).files_beside_weights()
    make(folder / name)
    assert Checkpoint(folder).hashes() == hashes
    assert Checkpoint(folder).files_beside_weights() == beside
    load_tokenizer(folder)


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def shard_and_remove(folder: Path) -> None:
    shard(folder)
    (folder / "model-2.safetensors").unlink()


def point_outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')


def keep_whole_beside_shards(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    shard(folder)
    (folder / "model.safetensors").write_bytes(whole)


def write(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), "has no config.json; give a folder in Hugging Face layout"),
        (remove("model.safetensors"), r"is no whole checkpoint, model\.safetensors \(or .*\) is missing"),
        (shard_and_remove, "is no whole checkpoint, model-2.safetensors is missing"),
        (point_outside, "the index names '../../etc/passwd', which is no shard in this folder"),
        (write("model.safetensors.index.json", "{}"), "has no weight_map from tensors to shards"),
        (write("model.safetensors.index.json", '{"weight_map": {"a": 3}}'), "has no weight_map from tensors to shards"),
        (keep_whole_beside_shards, r"has model\.safetensors beside model\.safetensors\.index\.json, which names other"),
        (
            lambda folder: change_config(folder, transformers_weights="sub/model.safetensors"),
            r"config\.json: transformers_weights names a file to take the weights from; remove the key",
        ),
        (write("config.json", "{"), "cannot be read as JSON"),
        (write("config.json", "[]"), "must hold one JSON object"),
        (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "has no tokenizer"),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_what_is_missing(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(RequestError, match=message):
        Checkpoint(folder)


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> Path:
    """The tiny model as a job saves it, in several shards."""
    saved = tmp_path / "saved"
    saved.mkdir()
    writer = FolderWriter(saved, shard_bytes=100_000)
    for name, tensor in load_file(folder / "model.safetensors").items():
        writer.add_tensor(name, tensor)
    checkpoint = Checkpoint(folder)
    writer.finish(checkpoint.config, checkpoint.files_beside_weights())
    write_manifest(saved / MANIFEST)
    return saved


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_saved_checkpoint_is_whole_whatever_lies_beside_its_files(saved: Path) -> None:
    (saved / "NOTES.md").write_text("mine")
    (saved / "extra.safetensors").write_text("mine")
    assert damage(saved) is None


def test_a_saved_checkpoint_that_lost_any_of_its_files_is_not_whole(saved: Path) -> None:
    assert len(list(saved.glob("*.safetensors"))) > 2
    assert damage(saved) is None
    for name in names(saved):
        (saved / name).rename(saved.parent / "aside")
        assert damage(saved) == f"{saved / name}: is missing"
        (saved.parent / "aside").rename(saved / name)
    assert damage(saved) is None


@pytest.mark.parametrize("spoil", [flip, lambda path: path.write_bytes(path.read_bytes()[:-1])], ids=["flip", "cut"])
def test_a_saved_checkpoint_with_a_small_file_that_is_another_is_not_whole(saved: Path, spoil) -> None:
    small = [name for name in names(saved) if not name.endswith(".safetensors") and name != MANIFEST]
    assert {"config.json", "model.safetensors.index.json", "tokenizer.json", "generation_config.json"} <= set(small)
    for name in small:
        before = (saved / name).read_bytes()
        spoil(saved / name)
        assert damage(saved) == f"{saved / name}: is not the file that was written (its sha256 is another)"
        (saved / name).write_bytes(before)
    assert damage(saved) is None


@pytest.mark.parametrize("n_bytes", [0, 7, 50, -1], ids=["empty", "in the length", "in the header", "in the data"])
def test_a_saved_checkpoint_with_a_shard_cut_off_is_not_whole(saved: Path, n_bytes: int) -> None:
    path = max(saved.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:n_bytes])
    found = damage(saved)
    assert found is not None
    assert found.startswith(f"{path}: is not a whole safetensors file")


def test_whether_a_saved_checkpoint_is_whole_is_told_without_reading_its_weights(saved: Path) -> None:
    """A run that looks at hundreds of gigabytes that it saved before must not take hours; loading them finds it."""
    for path in saved.glob("*.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert damage(saved) is None


def test_a_folder_that_is_not_there_is_no_whole_checkpoint(tmp_path: Path) -> None:
    assert damage(tmp_path / "nowhere") == f"{tmp_path / 'nowhere' / MANIFEST}: is missing"


def test_a_truncated_weight_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RequestError, match=r"model\.safetensors: is not a whole safetensors file"):
        dict(Checkpoint(folder).read(["model.norm.weight"]))
    with pytest.raises(RequestError, match=r"model\.safetensors: is not a whole safetensors file"):
        load(folder)


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 3}, r"model\.layers\.2\..* is missing, config.json asks for"),
        ({"intermediate_size": 100}, r"has shape \(192, 64\), config.json asks for \(100, 64\)"),
        ({"num_attention_heads": 0}, "config.json does not describe a model"),
        ({"hidden_size": "wide"}, "config.json does not describe a model"),
    ],
)
def test_weights_that_contradict_the_configuration_are_found_without_reading_them(
    folder: Path, values: dict[str, object], message: str
) -> None:
    change_config(folder, **values)
    with pytest.raises(RequestError, match=message):
        local(folder).check()


def change_tensors(folder: Path, **tensors: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})


ATTENTION = "model.layers.0.self_attn."


@pytest.mark.parametrize("name", [ATTENTION + "q_proj.bias", "model.layers.2.mlp.up_proj.weight", "model.\nnorm"])
def test_a_tensor_that_the_model_has_no_place_for_is_refused(folder: Path, name: str) -> None:
    change_tensors(folder, **{name: torch.ones(64)})
    with pytest.raises(RequestError, match=r"model: holds 'model\..*', for which the model .* has no place"):
        local(folder).check()


def test_angles_that_files_of_old_have_in_each_block_are_passed_over(folder: Path) -> None:
    before = load(folder).module.state_dict()
    change_tensors(folder, **{ATTENTION + "rotary_emb.inv_freq": torch.ones(8)})
    local(folder).check()
    assert all(torch.equal(tensor, before[name]) for name, tensor in load(folder).module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_no_ordinary_numbers_are_refused(folder: Path, dtype: torch.dtype) -> None:
    name = ATTENTION + "q_proj.weight"
    change_tensors(folder, **{name: load_file(folder / "model.safetensors")[name].to(dtype)})
    with pytest.raises(
        RequestError, match=r"q_proj\.weight is .*\[64, 64\], but weights must be F32, F16, BF16 or F64"
    ):
        local(folder).check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_of_any_floating_point_type_are_taken(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / "model.safetensors")
    change_tensors(folder, **{name: tensor.to(dtype) for name, tensor in tensors.items()})
    local(folder).check()


def tie(folder: Path, head: torch.Tensor) -> None:
    change_tensors(folder, **{"lm_head.weight": head})
    change_config(folder, tie_word_embeddings=True)


def test_a_tied_head_that_is_in_the_file_as_well_is_taken_if_it_is_the_embedding(folder: Path) -> None:
    tie(folder, load_file(folder / "model.safetensors")["model.embed_tokens.weight"].clone())
    local(folder).check()
    model = load(folder).module
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "change",
    [lambda head: head.index_fill(0, torch.tensor(7), 0), lambda head: head.double(), lambda head: head[:-1]],
    ids=["values", "type", "shape"],
)
def test_a_tied_head_that_is_another_than_the_embedding_is_refused(folder: Path, change) -> None:
    tie(folder, change(load_file(folder / "model.safetensors")["model.embed_tokens.weight"]).contiguous())
    with pytest.raises(RequestError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight, but config"):
        local(folder).check()


def test_a_null_quantization_is_none(folder: Path) -> None:
    change_config(folder, quantization_config=None)
    local(folder).check()


def test_restoring_tied_half_precision_weights_is_exact(folder: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(folder, tie_word_embeddings=True)
    local(folder).check()
    model = CausalLM.load(Checkpoint(folder), torch.bfloat16, torch.device("cpu"))
    model.replace_weight("model.layers.0.mlp.up_proj", torch.zeros(192, 64))
    model.restore()
    assert torch.equal(model.module.model.layers[0].mlp.up_proj.weight, tensors["model.layers.0.mlp.up_proj.weight"])


def test_a_checkpoint_that_lacks_a_tensor_is_not_filled_with_random_numbers(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        RequestError, match=r"1 tensors do not match config.json, such as model\.layers\.1\.mlp\.up_proj"
    ):
        load(folder)


def local(folder: Path, **settings: object) -> LocalModel:
    return LocalModel(**{"path": str(folder), "context_length": 64, "dtype": "float32", "group_size": 64, **settings})


def test_a_model_of_another_architecture_is_refused_before_it_is_loaded(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(RequestError, match=r"config\.json: architectures=.'GPT2LMHeadModel'.*LlamaForCausalLM"):
        local(folder).check()


def test_a_quantized_checkpoint_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    with pytest.raises(RequestError, match="is quantized already; give its original checkpoint"):
        local(folder).check()


def test_a_context_longer_than_the_model_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"model\.context_length=4096: model has 2048 positions"):
        local(folder, context_length=4096).check()


def test_linear_shapes_from_the_configuration_are_those_of_the_weights(folder: Path) -> None:
    shapes, model = linear_shapes(local(folder).check()), load(folder)
    assert set(shapes) == {linear for site in SITES for linear in site.linears}
    for path, shape in shapes.items():
        assert tuple(model.block(0).get_submodule(path).weight.shape) == shape


def test_the_identity_of_a_local_model_is_its_content_not_its_path(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert local(folder).identity() == local(copy).identity()
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert local(folder).identity() != local(copy).identity()
