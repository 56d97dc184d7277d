"""Generating text with packed linears: what is decompressed, what is not, and that it does not matter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from nowag_exp.formats import FORMATS
from nowag_exp.formats.quantizer import FEW_ROWS, PackedLinear
from nowag_exp.quiet import quiet_libraries


def load(folder: Path) -> Any:
    with quiet_libraries():
        return AutoModelForCausalLM.from_pretrained(folder)


def generate(model: Any, prompt: Tensor, n: int = 12) -> list[int]:
    with quiet_libraries():
        return model.generate(prompt, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0)[0].tolist()


@pytest.fixture
def n_decompressed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the weights that are decompressed."""
    count = 0

    def counting(dense: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def _dense(self: Any, dtype: torch.dtype) -> Tensor:
            nonlocal count
            count += 1
            return dense(self, dtype)

        return _dense

    for format_ in FORMATS.values():
        monkeypatch.setattr(format_, "dense", counting(format_.dense))
    return lambda: count


def test_a_nowag_vq_checkpoint_generates_the_tokens_of_its_values_and_forms_no_dense_weight(
    workplace: Path, tiny_run: list[str], n_decompressed: Callable[[], int]
) -> None:
    from nowag_exp.compose import compose
    from nowag_exp.config import build_experiment
    from nowag_exp.experiment import Workbench, run
    from nowag_exp.progress import Reporter

    experiment = build_experiment(
        compose([*tiny_run, "method=nowag_vq", "method.d=3", "method.iterations=5", "checkpoint.save=true"])
    )
    run(experiment, Workbench(), Reporter())
    model, dequantized = load(experiment.checkpoint_folder), load(experiment.checkpoint_folder)
    dequantized.dequantize()
    before = n_decompressed()
    prompt = torch.arange(FEW_ROWS)[None] + 7
    tokens = generate(model, prompt)
    assert n_decompressed() == before
    assert len(set(tokens)) > 3
    assert tokens == generate(dequantized, prompt)
    # A longer prompt is worth decompressing for, once; the tokens after it are not.
    prompt = torch.arange(FEW_ROWS + 1)[None] + 7
    assert generate(model, prompt) == generate(dequantized, prompt)
    n_linears = sum(isinstance(module, PackedLinear) for module in model.modules())
    assert n_decompressed() - before == n_linears > 0


def test_other_formats_are_decompressed_for_each_token(pack: Any, n_decompressed: Callable[[], int]) -> None:
    pair = pack("integer")
    model = load(pair.folder)
    before = n_decompressed()
    prompt = torch.arange(3)[None]
    assert generate(model, prompt, 5) == generate(load(pair.reference), prompt, 5)
    assert n_decompressed() - before == 5 * len(pair.weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bias", [False, True])
def test_few_rows_are_multiplied_as_many_are_but_for_rounding(pack: Any, dtype: str, bias: bool) -> None:
    pair = pack("codebook", dtype, attention_bias=bias, mlp_bias=bias)
    for name, linear in load(pair.folder).named_modules():
        if isinstance(linear, PackedLinear):
            randoms = torch.Generator().manual_seed(0)
            activations = torch.randn(2, FEW_ROWS // 2, linear.in_features, generator=randoms).to(pair.dtype)
            with torch.inference_mode():
                found = linear(activations)
            assert found.dtype == pair.dtype
            expected = torch.nn.functional.linear(activations, pair.expected(name), linear.bias)
            error = 4 * torch.finfo(pair.dtype).eps
            size = torch.nn.functional.linear(activations.abs().double(), pair.expected(name).abs().double())
            assert bool(((found.double() - expected.double()).abs() <= error * (size + 1)).all())


def test_gradients_flow_through_few_rows_as_through_many(pack: Any) -> None:
    pair = pack("codebook")
    name, linear = next((n, m) for n, m in load(pair.folder).named_modules() if isinstance(m, PackedLinear))
    activations = torch.ones(2, linear.in_features, requires_grad=True)
    linear(activations).sum().backward()
    torch.testing.assert_close(activations.grad, pair.expected(name).sum(dim=0).expand(2, -1))


def test_no_rows_give_no_rows(pack: Any) -> None:
    linear = next(m for m in load(pack("codebook").folder).modules() if isinstance(m, PackedLinear))
    assert linear(torch.zeros(0, linear.in_features)).shape == (0, linear.out_features)
