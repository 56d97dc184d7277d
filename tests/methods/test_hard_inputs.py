"""Inputs that formulas divide by zero on: every method gives a defined result, or an error that says what would do."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nowag_exp.compose import compose
from nowag_exp.config import build
from nowag_exp.formats import CompressedWeight
from nowag_exp.layout import groups
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Method, Needs, SiteStatistics

METHODS = sorted(groups()["method"])
D_OUT, D_IN = 200, 128

Case = tuple[Tensor, Tensor]
"""A weight, and the activations that calibrate it, a token a row."""


def make(name: str) -> Method:
    steps = ["method.iterations=3"] if name.endswith("_vq") else []
    return build(compose([f"method={name}", "model=llama2_7b", *steps])["method"], "method", Method)


def compressed(method: Method, weight: Tensor, activations: Tensor, ledger: Ledger | None = None) -> CompressedWeight:
    moment = activations.double().T @ activations.double()
    seen = SiteStatistics(len(activations), moment.diagonal().clone(), moment.float())
    statistics = None if method.needs is Needs.NOTHING else seen
    return method.compress({"w": weight}, statistics, ledger or Ledger())["w"]


def ordinary() -> Case:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(D_OUT, D_IN, generator=generator), torch.randn(300, D_IN, generator=generator)


def one_token() -> Case:
    weight, activations = ordinary()
    return weight, activations[:1]


def fewer_tokens_than_inputs() -> Case:
    weight, activations = ordinary()
    return weight, activations[:40]


def activations_of_rank_one() -> Case:
    weight, activations = ordinary()
    return weight, torch.outer(activations[:, 0], torch.linspace(-1, 2, D_IN))


def duplicated_columns() -> Case:
    weight, activations = ordinary()
    weight[:, 1::2], activations[:, 1::2] = weight[:, ::2], activations[:, ::2]
    return weight, activations


def zero_columns() -> Case:
    weight, activations = ordinary()
    weight[:, 7], weight[:, 8], activations[:, 8], activations[:, 9] = 0, 0, 0, 0
    return weight, activations


def constant_rows() -> Case:
    weight, activations = ordinary()
    weight[3], weight[4] = 0.5, 0
    return weight, activations


def a_constant_matrix() -> Case:
    return torch.full((D_OUT, D_IN), 0.25), ordinary()[1]


def a_zero_matrix() -> Case:
    return torch.zeros(D_OUT, D_IN), ordinary()[1]


def one_huge_outlier() -> Case:
    weight, activations = ordinary()
    weight[5, 6] = 3e4
    return weight, activations


def tiny_weights() -> Case:
    weight, activations = ordinary()
    return weight * 1e-6, activations


def silence() -> Case:
    weight, activations = ordinary()
    return weight, torch.zeros_like(activations)


def deafening_activations() -> Case:
    weight, activations = ordinary()
    return weight, activations * 1e4


CASES = [
    one_token,
    fewer_tokens_than_inputs,
    activations_of_rank_one,
    duplicated_columns,
    zero_columns,
    constant_rows,
    a_constant_matrix,
    a_zero_matrix,
    one_huge_outlier,
    tiny_weights,
    silence,
    deafening_activations,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_the_result_is_finite_of_the_right_size_and_the_same_twice(name: str, case: Callable[[], Case]) -> None:
    method, (weight, activations) = make(name), case()
    found = compressed(method, weight, activations)
    values = found.decompress()
    assert torch.isfinite(values).all()
    assert values.shape == weight.shape
    assert method.count_bits(D_OUT, D_IN) in (None, found.bits), "the size does not depend on the values"
    assert torch.equal(values, compressed(method, weight, activations).decompress())


@pytest.mark.parametrize("name", ["magnitude", "wanda", "nowag_p", "sparsegpt"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_pruners_remove_exactly_as_many_as_asked_for(name: str, case: Callable[[], Case]) -> None:
    weight, activations = case()
    found = compressed(make(name), weight, activations)
    kept = found.n_nonzero
    assert kept == weight.numel() // 2, "places are kept, though what stands there may be 0"


@pytest.mark.parametrize("name", ["magnitude", "wanda", "nowag_p", "sparsegpt"])
def test_pruners_keep_a_huge_outlier_as_it_is(name: str) -> None:
    weight, activations = one_huge_outlier()
    value = compressed(make(name), weight, activations).decompress()[5, 6]
    assert value == pytest.approx(3e4, rel=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_zeros_stay_zeros(name: str) -> None:
    weight, activations = a_zero_matrix()
    assert not compressed(make(name), weight, activations).decompress().any()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dense"])
def test_an_ordinary_matrix_is_not_given_back_unchanged(name: str) -> None:
    """That the cases above test anything."""
    weight, activations = ordinary()
    values = compressed(make(name), weight, activations).decompress().float()
    error = float((values - weight).norm() / weight.norm())
    assert 0.01 < error < 0.9
