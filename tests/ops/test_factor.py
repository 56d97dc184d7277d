import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nowag_exp.ops.factor import DIRECTLY_INVERTED, NotPositiveDefinite, activation_order, inverse_factor


def hessian_of(n_tokens: int, width: int, seed: int = 0) -> Tensor:
    """``2/n Σ x xᵀ`` of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n_tokens, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return 2 / n_tokens * inputs.T @ inputs


def papers_factor(hessian: Tensor, dampening: float) -> Tensor:
    """As both papers do it, in float64: dampen, invert, take the upper Cholesky factor."""
    damped = hessian.double()
    damped = damped + torch.diag((damped.diagonal() == 0).double())
    damped += dampening * damped.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    return torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 24), dampening=st.sampled_from([0.01, 0.1, 1.0]), seed=st.integers(0, 999))
def test_the_factor_is_the_upper_cholesky_factor_of_the_inverse(width: int, dampening: float, seed: int) -> None:
    hessian = hessian_of(2 * width, width, seed)
    factor = inverse_factor(hessian, dampening)
    assert factor.dtype == torch.float32
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.double(), papers_factor(hessian, dampening), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [DIRECTLY_INVERTED + 1, 3 * DIRECTLY_INVERTED + 5])
def test_matrices_that_are_inverted_by_halves_have_the_same_factor(width: int) -> None:
    hessian = hessian_of(2 * width, width) / width
    torch.testing.assert_close(
        inverse_factor(hessian, 0.01).double(), papers_factor(hessian, 0.01), rtol=1e-3, atol=1e-3
    )


def test_a_two_by_two_hessian_worked_by_hand() -> None:
    # inv([[2, 1], [1, 3]]) = [[0.6, -0.2], [-0.2, 0.4]] = Uᵀ U.
    factor = inverse_factor(torch.tensor([[2.0, 1.0], [1.0, 3.0]]), 0.0)
    expected = torch.tensor([[math.sqrt(0.6), -0.2 / math.sqrt(0.6)], [0.0, math.sqrt(0.4 - 0.04 / 0.6)]])
    torch.testing.assert_close(factor, expected)


def test_dampening_is_a_fraction_of_the_mean_of_the_diagonal() -> None:
    # Mean 3, a third of it added: diag(2, 6), whose inverse has the factor diag(1/√2, 1/√6).
    factor = inverse_factor(torch.diag(torch.tensor([1.0, 5.0])), 1 / 3)
    torch.testing.assert_close(factor, torch.diag(torch.tensor([2.0, 6.0]).rsqrt()))


def test_dead_inputs_change_nothing_for_the_others() -> None:
    hessian = hessian_of(20, 6)
    hessian[2], hessian[:, 2] = 0.0, 0.0
    alive = torch.tensor([0, 1, 3, 4, 5])
    factor = inverse_factor(hessian, 0.0)
    torch.testing.assert_close(factor[alive][:, alive], inverse_factor(hessian[alive][:, alive], 0.0))
    assert factor[2].tolist() == factor[:, 2].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(inverse_factor(torch.zeros(3, 3), 0.01), torch.eye(3) / 1.01**0.5)


def test_the_factor_lies_in_memory_row_by_row_as_the_kernels_read_it() -> None:
    for width in (6, 200):
        assert inverse_factor(hessian_of(3 * width, width), 0.01).is_contiguous()


def test_the_hessian_is_not_changed() -> None:
    for hessian in (hessian_of(12, 6), hessian_of(12, 6).double()):
        before = hessian.clone()
        inverse_factor(hessian, 0.01)
        assert torch.equal(hessian, before)


INDEFINITE = torch.tensor([[1.0, 3.0], [3.0, 1.0]])


@pytest.mark.parametrize(
    ("hessian", "dampening", "suffices"),
    [
        (hessian_of(4, 16), 0.0, None),  # fewer tokens than inputs
        (torch.ones(2, 2), 0.0, 1e-4),
        (INDEFINITE, 0.0, 10.0),  # its lowest eigenvalue is -2 and the mean of its diagonal is 1
        (INDEFINITE, 0.01, 10.0),
        (INDEFINITE, 0.05, 5.0),
    ],
)
def test_a_hessian_without_a_factor_is_refused_and_the_dampening_suggested_suffices(
    hessian: Tensor, dampening: float, suffices: float | None
) -> None:
    with pytest.raises(NotPositiveDefinite, match="suffices") as caught:
        inverse_factor(hessian, dampening)
    assert torch.isfinite(inverse_factor(hessian, caught.value.suffices)).all()
    if suffices:
        assert caught.value.suffices == pytest.approx(suffices)
    start = 10 * dampening or 1e-4
    if caught.value.suffices > 1.5 * start:  # and the step of the ladder before it does not
        with pytest.raises(NotPositiveDefinite):
            inverse_factor(hessian, caught.value.suffices / 10)


@pytest.mark.parametrize("hessian", [-torch.eye(2), torch.full((2, 2), torch.nan)])
def test_a_hessian_that_no_dampening_helps_is_refused_as_such(hessian: Tensor) -> None:
    with pytest.raises(NotPositiveDefinite, match="no dampening helps") as caught:
        inverse_factor(hessian, 0.01)
    assert caught.value.suffices == math.inf


def test_a_factor_that_is_not_finite_is_no_factor() -> None:
    with pytest.raises(NotPositiveDefinite):
        inverse_factor(torch.diag(torch.tensor([torch.inf, 1.0])), 0.0)


def test_columns_go_by_descending_activation_and_equal_ones_in_their_order() -> None:
    assert activation_order(torch.tensor([1.0, 3.0, 0.0, 3.0, 2.0, 1.0])).tolist() == [1, 3, 4, 0, 5, 2]
