"""A streamed model is the loaded one, to the last bit, and holds one block at a time."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import load_file, save_file

from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.errors import NowagError, RequestError
from nowag_exp.formats import SparseWeight
from nowag_exp.models import Activations, Batch, CausalLM, Checkpoint, ModelSource
from nowag_exp.models.blocks import device_map

LINEAR = "model.layers.1.mlp.up_proj"


@pytest.fixture
def source(workplace: Path) -> ModelSource:
    overrides = ["model=tiny", "model.n_blocks=3"]
    return build(compose(overrides)["model"], "model", ModelSource)  # type: ignore[type-abstract]


@pytest.fixture
def streamed(source: ModelSource) -> CausalLM:
    return source.load(torch.device("cpu"), streamed=True)


@pytest.fixture
def loaded(source: ModelSource) -> CausalLM:
    return source.load(torch.device("cpu"))


@pytest.fixture
def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(250, (rows, width), generator=generator) for rows, width in ((3, 20), (1, 7), (2, 20))]
    forked = Batch(
        ids[0], torch.arange(20).repeat(3, 1), torch.tensor([0] * 10 + [1] * 4 + [2] * 5 + [-1]).repeat(3, 1)
    )
    return [forked, *map(Batch, ids[1:])]


def held(model: CausalLM) -> list[int]:
    """Blocks that have their weights."""
    blocks = enumerate(model.module.model.layers)
    return [index for index, block in blocks if not any(tensor.is_meta for tensor in block.parameters())]


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("placement", ["device", "cpu", "disk"])
def test_last_states_and_logits_are_those_of_the_loaded_model_bit_for_bit(
    loaded: CausalLM,
    streamed: CausalLM,
    batches: list[Batch],
    placement: str,
    dtype: torch.dtype | None,
    tmp_path: Path,
) -> None:
    streamed.placement, streamed.scratch = placement, tmp_path / "scratch"  # type: ignore[assignment]
    expected = list(loaded.last_hidden(batches, dtype))
    found = list(streamed.last_hidden(batches, dtype))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(streamed.logits(ours), loaded.logits(theirs))
    assert not list(tmp_path.rglob("scratch/*")), "the file has no name"


@torch.inference_mode()
def test_one_block_is_held_at_a_time_and_none_beside_the_head(streamed: CausalLM, batches: list[Batch]) -> None:
    assert held(streamed) == []
    for index in (0, 1, 2, 0):
        streamed.run_block(index, streamed.embed(batches[0].ids))
        assert held(streamed) == [index]
    streamed.logits(next(streamed.last_hidden(batches)))
    assert held(streamed) == []


def test_the_next_block_is_read_while_the_present_one_computes(
    streamed: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = streamed.stream._read
    monkeypatch.setattr(streamed.stream, "_read", lambda index: read.append(index) or plain(index))
    streamed.block(0)
    streamed.stream._ahead[1].result()
    assert read == [0, 1]
    streamed.block(1)
    streamed.block(2)
    assert read == [0, 1, 2], "each block is read once a pass"


def test_a_rewritten_block_is_so_whenever_it_is_read_again_until_it_is_restored(
    streamed: CausalLM, loaded: CausalLM
) -> None:
    original = loaded.weight(1, LINEAR)
    keep = original > 0
    compressed = SparseWeight.from_mask(original, keep, "unstructured", torch.float16)
    streamed.block(1)
    streamed.replace_weight(LINEAR, compressed.decompress().float())
    streamed.stream.rewrite(1, lambda: {LINEAR: compressed})
    for _ in range(2):
        assert torch.equal(streamed.weight(1, LINEAR), torch.where(keep, original, 0).half().float())
        streamed.block(2)
    streamed.restore()
    assert torch.equal(streamed.weight(1, LINEAR), original)


def test_other_parameters_and_their_values_are_those_of_the_loaded_model(streamed: CausalLM, loaded: CausalLM) -> None:
    expected = dict(loaded.other_parameters())
    assert {name: tuple(tensor.shape) for name, tensor in streamed.other_parameters()} == {
        name: tuple(tensor.shape) for name, tensor in expected.items()
    }
    for name, tensor in expected.items():
        assert torch.equal(streamed.values(name), tensor)


def test_nothing_is_read_for_no_batch(streamed: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed.stream, "hold", lambda index: pytest.fail("read"))
    assert list(streamed.last_hidden([])) == []


@torch.inference_mode()
def test_it_reads_shards_of_another_precision_and_a_head_that_is_tied(source: ModelSource, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(source.folder(), dtype=torch.bfloat16)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size="100KB")
    (folder / "tokenizer.json").write_text("{}")
    checkpoint = Checkpoint(folder)
    assert len(checkpoint.weight_files) > 3
    loaded, streamed = (
        load(checkpoint, torch.float32, torch.device("cpu")) for load in (CausalLM.load, CausalLM.streamed)
    )
    ids = [Batch(torch.arange(30)[None])]
    (expected,), (found,) = loaded.last_hidden(ids), streamed.last_hidden(ids)
    assert torch.equal(found, expected)
    assert torch.equal(streamed.logits(found), loaded.logits(expected))


def test_a_shard_that_goes_while_it_streams_is_named(source: ModelSource, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in source.folder().iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shard_of = {name: "b.safetensors" if ".layers.2." in name else "a.safetensors" for name in tensors}
    for shard in ("a.safetensors", "b.safetensors"):
        save_file({name: tensors[name] for name in tensors if shard_of[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    model = CausalLM.streamed(Checkpoint(folder), torch.float32, torch.device("cpu"))
    model.block(0)
    (folder / "b.safetensors").write_bytes((folder / "b.safetensors").read_bytes()[:-100])
    with pytest.raises(RequestError, match=r"b\.safetensors: is not a whole safetensors file .*; download it again"):
        model.block(2)


@pytest.mark.parametrize("placement", ["device", "cpu", "disk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_what_was_put_there(placement: str, dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 8), (1, 9, 8), (3, 700, 8)]
    first, second = ([torch.randn(shape, generator=generator).to(dtype) for shape in shapes] for _ in range(2))
    waiting = Activations(first, torch.device("cpu"), placement, tmp_path)  # type: ignore[arg-type]
    assert len(waiting) == 3
    for number, batch in enumerate(first):
        assert torch.equal(waiting[number], batch)
    for number, batch in enumerate(second[:2]):
        waiting[number] = batch
    assert all(map(torch.equal, waiting.tensors(), [*second[:2], first[2]]))
    assert not list(tmp_path.iterdir()), "nothing can stay behind"


@torch.inference_mode()
@pytest.mark.parametrize("fits", [20, 45])
def test_a_batch_that_does_not_fit_is_run_in_parts_to_the_same_states(loaded: CausalLM, memory_of, fits: int) -> None:
    batch = Batch(torch.randint(250, (5, 20), generator=torch.Generator().manual_seed(1)))
    (expected,) = loaded.last_hidden([batch])
    parts = memory_of(loaded, fits)
    halvings: list[int] = []
    loaded.on_halving = lambda too_many, _: halvings.append(too_many)
    (found,) = loaded.last_hidden([batch])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert max(rows * width for rows, width in parts) <= fits
    assert sum(rows for rows, _ in parts) == 5 * 3
    assert set(halvings) == {100}
    loaded.restore()
    known = len(halvings)
    list(loaded.last_hidden([batch]))
    assert len(halvings) == 2 * known, "as much as was asked for is tried again"


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_model_under_a_device_map_gives_the_same(
    source: ModelSource, loaded: CausalLM, batches: list[Batch], dtype: torch.dtype | None
) -> None:
    # One device stands for several here: what is shown is that the map's hooks and our way through the blocks agree.
    mapped = source.load(torch.device("cpu"))
    dispatch_model(mapped.module, device_map(mapped.module, {"cpu": 10**9}), force_hooks=True)
    assert all(hasattr(block, "_hf_hook") for block in mapped.module.model.layers)
    for ours, theirs in zip(mapped.last_hidden(batches, dtype), loaded.last_hidden(batches, dtype), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(mapped.logits(ours), loaded.logits(theirs))


def test_a_device_map_cuts_no_block_in_two_and_leaves_nothing_over(loaded: CausalLM) -> None:
    n_bytes = sum(parameter.nbytes for parameter in loaded.module.parameters())
    found = device_map(loaded.module, {0: n_bytes, 1: n_bytes})
    assert set(found.values()) <= {0, 1}
    assert not any(".layers." in name and name.count(".") > 2 for name in found)
    with pytest.raises(NowagError, match=r"does not fit into what is free of 3 GPUs .* set runtime\.offload=always"):
        device_map(loaded.module, {0: n_bytes // 3, 1: n_bytes // 3, "cpu": 0})


@torch.inference_mode()
@pytest.mark.parametrize("what", ["block 1", "the language-model head"])
def test_what_does_not_fit_beside_nothing_is_named(
    streamed: CausalLM, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    streamed.block(0)
    plain = torch.Tensor.to

    def full(tensor: torch.Tensor, *where: object, **how: object) -> torch.Tensor:
        if where[:1] == (streamed.device,):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
        return plain(tensor, *where, **how)

    monkeypatch.setattr(torch.Tensor, "to", full)
    with pytest.raises(NowagError, match=rf"^{what} of the model does not fit .* of cpu, .* 2.00 GiB.*; free memory$"):
        streamed.block(1) if what == "block 1" else streamed.logits(torch.zeros(1, 4, 4))


@pytest.mark.parametrize("load", [CausalLM.load, CausalLM.streamed])
@pytest.mark.parametrize("name", [f"{LINEAR}.weight", "model.layers.2.input_layernorm.weight", "lm_head.weight"])
def test_a_parameter_that_is_not_finite_is_named(source: ModelSource, name: str, load: Callable[..., CausalLM]) -> None:
    path = source.folder() / "model.safetensors"
    whole = load_file(path)
    whole[name].view(-1)[:2] = float("inf")
    save_file(whole, path, metadata={"format": "pt"})
    model = load(Checkpoint(path.parent), torch.float32, torch.device("cpu"))
    expected = f"{name}: 2 of {whole[name].numel()} values are NaN or infinite; download the model again"
    assert model.why_not_finite() == expected


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [("float16", "use model.dtype=bfloat16 or float32"), ("bfloat16", "check the checkpoint")],
)
def test_if_all_weights_are_finite_the_type_is_too_narrow(source: ModelSource, dtype: str, remedy: str) -> None:
    model = CausalLM.streamed(Checkpoint(source.folder()), getattr(torch, dtype), torch.device("cpu"))
    expected = f"all weights are finite, but activations left the range of {dtype}; {remedy}"
    assert model.why_not_finite() == expected
