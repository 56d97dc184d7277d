"""What is stored is what was meant: no number is lost above or below the range of its type."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.engines import SiteJob, compress_site
from nowag_exp.errors import NowagError
from nowag_exp.formats import CompressedWeight
from nowag_exp.layout import groups
from nowag_exp.methods import Method, Needs, SiteStatistics

METHODS = sorted(groups()["method"])
LINEAR = "model.layers.3.self_attn.q_proj"


def made(name: str, *overrides: str) -> Method:
    steps = ["method.iterations=2", "method.restarts=1"] if name.endswith("_vq") else []
    return build(compose([f"method={name}", "model=llama2_7b", *steps, *overrides])["method"], "method", Method)


def compressed(method: Method, weight: Tensor) -> CompressedWeight:
    activations = torch.randn(300, weight.shape[1], generator=torch.Generator().manual_seed(1))
    moment = activations.double().T @ activations.double()
    seen = SiteStatistics(len(activations), moment.diagonal().clone(), moment.float())
    job = SiteJob(3, "attention", {LINEAR: weight}, None if method.needs is Needs.NOTHING else seen)
    return compress_site(method, job).weights[LINEAR]


def ordinary() -> Tensor:
    return 0.02 * torch.randn(200, 128, generator=torch.Generator().manual_seed(0))


def relative_error(found: Tensor, weight: Tensor) -> float:
    return float((found.double() - weight.double()).norm() / weight.double().norm())


METHOD_OF = {name: made(name) for name in METHODS}
ERROR_OF = {name: relative_error(compressed(METHOD_OF[name], ordinary()).decompress(), ordinary()) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=8, deadline=None)
@given(power=st.integers(-40, 40))
def test_a_weight_of_another_size_is_as_good_or_refused_by_name(name: str, power: int) -> None:
    weight = ordinary() * 2.0**power
    refused, error = "", 0.0
    try:
        error = relative_error(compressed(METHOD_OF[name], weight).decompress(), weight)
    except NowagError as problem:
        refused = str(problem)
    assert error <= 1.02 * ERROR_OF[name] + 0.002
    assert not refused or LINEAR in refused
    assert not (refused and -2 <= power <= 15), "an ordinary size is never refused"


@pytest.mark.parametrize(("name", "tensor"), [("kmeans_vq", "codebook"), ("nowag_vq", "norms"), ("wanda", "values")])
def test_a_linear_too_large_for_its_format_is_refused_with_the_tensor_that_overflows(name: str, tensor: str) -> None:
    with pytest.raises(NowagError) as caught:
        compressed(METHOD_OF[name], ordinary() * 1e8)
    assert LINEAR in str(caught.value)
    assert tensor in str(caught.value)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_that_computes_the_same_with_smaller_weights_is_no_silent_loss(bits: int) -> None:
    with pytest.raises(NowagError) as caught:
        compressed(made("rtn", f"method.bits={bits}"), ordinary() * 2.0**-22)
    assert LINEAR in str(caught.value)
    assert "scales" in str(caught.value)


def test_a_linear_of_zeros_has_nothing_to_lose() -> None:
    for name in METHODS:
        assert not compressed(METHOD_OF[name], torch.zeros(200, 128)).decompress().any()
