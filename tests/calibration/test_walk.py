from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from nowag_exp.calibration import compress, walk
from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.errors import NowagError
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Method, Needs, NoWagP, Wanda
from nowag_exp.models import SITES, CausalLM, ModelSource
from nowag_exp.ops.masks import rowwise_mask


def load() -> CausalLM:
    source = build(compose(["model=tiny", "model.n_blocks=3"])["model"], "model", ModelSource)
    return source.load(torch.device("cpu"))


@pytest.fixture
def model(workplace: Path) -> CausalLM:
    return load()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(250, (5, 24), generator=torch.Generator().manual_seed(0))


def nothing(known: bool = False) -> None:
    pass


def hooked_norms(model: CausalLM, tokens: torch.Tensor, linear: str) -> torch.Tensor:
    """``‖X_j‖`` at a linear in a forward of the whole model: what the walk must find block by block."""
    seen: list[torch.Tensor] = []
    handle = model.module.get_submodule(linear).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model.module(tokens)
    handle.remove()
    return torch.cat(seen).flatten(0, 1).double().square().sum(dim=0).sqrt()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_dense_walk_finds_what_hooks_in_a_whole_forward_find(
    model: CausalLM, tokens: torch.Tensor, batch_size: int
) -> None:
    statistics = list(walk(model, tokens, batch_size, "dense", Needs.DIAGONAL))
    assert len(statistics) == 3
    for index, block in enumerate(statistics):
        for site in SITES:
            assert block[site.name].n_tokens == tokens.numel()
            for linear in model.linears(index, site):
                assert_close(block[site.name].input_norms, hooked_norms(model, tokens, linear), rtol=1e-5, atol=1e-8)


def test_a_weight_that_is_not_finite_is_named_by_those_whose_inputs_it_spoils(
    model: CausalLM, tokens: torch.Tensor
) -> None:
    model.weight(0, "model.layers.0.self_attn.q_proj")[0, 0] = torch.nan
    with pytest.raises(
        NowagError, match=r"o_proj: .* input columns .*; model\.layers\.0\.self_attn\.q_proj\.weight: 1 of"
    ):
        next(walk(model, tokens, 5, "dense", Needs.DIAGONAL))


def test_dense_propagation_is_not_changed_by_compressing_on_the_way(model: CausalLM, tokens: torch.Tensor) -> None:
    expected = list(walk(model, tokens, 2, "dense", Needs.DIAGONAL))
    for index, block in enumerate(walk(model, tokens, 2, "dense", Needs.DIAGONAL)):
        for site in SITES:
            assert torch.equal(block[site.name].sum_of_squares, expected[index][site.name].sum_of_squares)
            for linear in model.linears(index, site).values():
                linear.weight.data.zero_()


def test_compressed_propagation_calibrates_each_block_on_the_compressed_ones_before(
    model: CausalLM, tokens: torch.Tensor
) -> None:
    """Against the paper's procedure written plainly: prune block k in a whole model whose earlier blocks are pruned."""
    wanda = Wanda(name="wanda", sparsity=0.5, pattern="unstructured", propagate="compressed")
    compress(model, wanda, walk(model, tokens, 5, "compressed", Needs.DIAGONAL), Ledger(), nothing)

    plain = load()
    for index in range(3):
        names = [name for site in SITES for name in plain.linears(index, site)]
        norms = {name: hooked_norms(plain, tokens, name) for name in names}
        for name in names:
            weight = plain.module.get_submodule(name).weight.data
            weight *= rowwise_mask(weight.abs() * norms[name].float(), 0.5).mask
            weight.copy_(weight.half())  # as stored
    for name, parameter in plain.module.named_parameters():
        assert torch.equal(parameter, model.module.get_parameter(name)), name


def test_the_two_kinds_of_propagation_differ(model: CausalLM, tokens: torch.Tensor) -> None:
    method = NoWagP(name="nowag_p", normalise="both", sparsity=0.7, pattern="unstructured", propagate="dense")
    other = load()
    compress(model, method, walk(model, tokens, 5, "dense", Needs.DIAGONAL), Ledger(), nothing)
    compress(other, method, walk(other, tokens, 5, "compressed", Needs.DIAGONAL), Ledger(), nothing)
    first, last = "model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.down_proj.weight"
    assert torch.equal(model.module.get_parameter(first), other.module.get_parameter(first))
    assert not torch.equal(model.module.get_parameter(last), other.module.get_parameter(last))


def test_embeddings_norms_and_head_stay(model: CausalLM, tokens: torch.Tensor) -> None:
    method = NoWagP(name="nowag_p", normalise="both", sparsity=0.5, pattern="2:4", propagate="dense")
    report = compress(model, method, walk(model, tokens, 5, "dense", Needs.DIAGONAL), Ledger(), nothing)
    dense, changed = load(), {linear.name for linear in report}
    assert len(changed) == 3 * 7
    for name, parameter in dense.module.named_parameters():
        same = torch.equal(parameter, model.module.get_parameter(name))
        assert same == (name.removesuffix(".weight") not in changed), name


def test_the_report_counts_kept_weights_bits_and_error(model: CausalLM, tokens: torch.Tensor) -> None:
    method = NoWagP(name="nowag_p", normalise="both", sparsity=0.5, pattern="2:4", propagate="dense")
    dense = load()
    for linear in compress(model, method, walk(model, tokens, 5, "dense", Needs.DIAGONAL), Ledger(), nothing):
        weight = dense.module.get_parameter(f"{linear.name}.weight")
        values = model.module.get_parameter(f"{linear.name}.weight")
        assert linear.shape == tuple(weight.shape)
        assert linear.n_kept == weight.numel() // 2 == int((values != 0).sum())
        assert linear.format == "sparse"
        assert linear.bits == weight.numel() * (0.75 + 8)  # 3 bits of position for 4 weights, half of them in fp16
        assert torch.equal(values[values != 0], weight[values != 0].half().float())
        expected = float(torch.linalg.vector_norm(weight - values) / torch.linalg.vector_norm(weight))
        assert linear.relative_error == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_weight_that_is_not_finite_raises_with_the_linears_name(model: CausalLM, bad: float) -> None:
    model.module.model.layers[1].mlp.up_proj.weight.data[0, 0] = bad
    method = build(compose(["method=magnitude"])["method"], "method", Method)
    with pytest.raises(
        NowagError, match=r"model\.layers\.1\.mlp\.up_proj: 1 of \d+ weights are NaN or infinite in the checkpoint"
    ):
        compress(model, method, None, Ledger(), nothing)


def test_a_weight_that_float16_cannot_hold_is_no_broken_download_first(model: CausalLM) -> None:
    model.module.half()
    model.module.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.tensor(1e6).half()
    method = build(compose(["method=magnitude"])["method"], "method", Method)
    with pytest.raises(NowagError, match=r"up_proj: 1 of \d+ weights .* in float16; use model\.dtype=bfloat16"):
        compress(model, method, None, Ledger(), nothing)
    assert "up_proj.weight: 1 of" in (why := model.why_not_finite())
    assert "model.dtype=bfloat16" in why


def test_a_weight_that_16_bits_cannot_hold_raises_with_the_linears_name(model: CausalLM) -> None:
    model.module.model.layers[1].mlp.up_proj.weight.data[0, 0] = 1e6
    method = build(compose(["method=magnitude"])["method"], "method", Method)
    with pytest.raises(NowagError, match=r"model\.layers\.1\.mlp\.up_proj: values of .*float16.*65504.* reach 1e\+06"):
        compress(model, method, None, Ledger(), nothing)


def test_dead_input_columns_go_into_the_ledger_and_are_pruned_first(model: CausalLM, tokens: torch.Tensor) -> None:
    model.module.model.layers[1].post_attention_layernorm.weight.data[:3] = 0
    ledger = Ledger()
    method = NoWagP(name="nowag_p", normalise="both", sparsity=0.5, pattern="unstructured", propagate="dense")
    compress(model, method, walk(model, tokens, 5, "dense", Needs.DIAGONAL), ledger, nothing)
    assert [(entry.kind, entry.where, entry.count) for entry in ledger.entries] == [
        ("dead_columns", "model.layers.1.mlp.gate_proj and model.layers.1.mlp.up_proj", 3)
    ]
    assert not model.module.model.layers[1].mlp.up_proj.weight[:, :3].any()


def test_blocks_that_are_not_called_as_expected_are_noticed(
    model: CausalLM, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CausalLM, "run_block", lambda self, index, hidden, listener: hidden)
    with pytest.raises(
        NowagError, match=r"model\.layers\.0\.self_attn\.q_proj and .*: no token reached this input site"
    ):
        next(walk(model, tokens, 5, "dense", Needs.DIAGONAL))
