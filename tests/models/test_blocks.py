import pytest
import torch

from nowag_exp.models import SITES, Batch, CausalLM


def last_hidden(model: CausalLM, ids: torch.Tensor) -> torch.Tensor:
    (hidden,) = model.last_hidden([Batch(ids)])
    return hidden


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(250, (3, 20), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_running_block_by_block_equals_the_whole_model_bit_for_bit(model: CausalLM, ids: torch.Tensor) -> None:
    hidden = model.embed(ids)
    for index in range(model.n_blocks):
        hidden = model.run_block(index, hidden)
    by_blocks = model.logits(model.module.model.norm(hidden))
    assert torch.equal(by_blocks, model.module(ids).logits)
    assert torch.equal(model.logits(last_hidden(model, ids)), model.module(ids).logits)


@torch.inference_mode()
def test_a_token_does_not_see_later_ones(model: CausalLM, ids: torch.Tensor) -> None:
    changed = ids.clone()
    changed[:, 10:] = 7
    assert torch.equal(last_hidden(model, ids)[:, :10], last_hidden(model, changed)[:, :10])
    first = model.run_block(0, model.embed(ids))[:, :10]
    assert torch.equal(first, model.run_block(0, model.embed(changed))[:, :10])


@torch.inference_mode()
def test_the_linears_of_a_site_read_the_same_activation_and_sites_read_different_ones(
    model: CausalLM, ids: torch.Tensor
) -> None:
    seen: dict[str, torch.Tensor] = {}
    for path, module in model.block(0).named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs, path=path: seen.update({path: inputs[0]}))
    model.run_block(0, model.embed(ids))
    firsts = []
    for site in SITES:
        activations = [seen.pop(path) for path in site.linears]
        assert all(activation is activations[0] for activation in activations)
        firsts.append(activations[0])
    assert not seen, "linears that belong to no site"
    assert len({activation.data_ptr() for activation in firsts}) == len(SITES)


def test_linears_are_named_as_in_the_checkpoint(model: CausalLM) -> None:
    names = model.linears(1, SITES[0])
    assert next(iter(names)) == "model.layers.1.self_attn.q_proj"
    assert len(dict(model.checkpoint.read(f"{name}.weight" for name in names))) == 3
