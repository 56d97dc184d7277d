import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nowag_exp.ops.factor import NotPositiveDefinite, activation_order, hessian_factor


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
def test_the_factor_is_the_inverse_of_the_papers_factor_of_the_inverse(width: int, dampening: float, seed: int) -> None:
    hessian = hessian_of(2 * width, width, seed)
    factor = hessian_factor(hessian, dampening)
    assert factor.dtype == torch.float32
    assert torch.equal(factor, factor.triu())
    papers = papers_factor(hessian, dampening)
    torch.testing.assert_close(torch.linalg.inv(factor.double()), papers, rtol=1e-3, atol=1e-4)
    # What the column loop takes for a block of columns: the same block of the papers' factor.
    block = slice(width // 3, width)
    torch.testing.assert_close(
        torch.linalg.inv(factor[block, block].double()), papers[block, block], rtol=1e-3, atol=1e-4
    )


def test_a_two_by_two_hessian_worked_by_hand() -> None:
    # [[2, 1], [1, 3]] = R Rᵀ: R_22 = √3, R_12 = 1/√3, R_11 = √(2 - 1/3).
    factor = hessian_factor(torch.tensor([[2.0, 1.0], [1.0, 3.0]]), 0.0)
    torch.testing.assert_close(factor, torch.tensor([[math.sqrt(5 / 3), 1 / math.sqrt(3)], [0.0, math.sqrt(3)]]))


def test_dampening_is_a_fraction_of_the_mean_of_the_diagonal() -> None:
    # Mean 3, a third of it added: diag(2, 6), whose factor is diag(√2, √6).
    factor = hessian_factor(torch.diag(torch.tensor([1.0, 5.0])), 1 / 3)
    torch.testing.assert_close(factor, torch.diag(torch.tensor([2.0, 6.0]).sqrt()))


def test_dead_inputs_change_nothing_for_the_others() -> None:
    hessian = hessian_of(20, 6)
    hessian[2], hessian[:, 2] = 0.0, 0.0
    alive = torch.tensor([0, 1, 3, 4, 5])
    factor = hessian_factor(hessian, 0.0)
    torch.testing.assert_close(factor[alive][:, alive], hessian_factor(hessian[alive][:, alive], 0.0))
    assert factor[2].tolist() == factor[:, 2].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(hessian_factor(torch.zeros(3, 3), 0.01), torch.eye(3) * 1.01**0.5)


def test_the_factor_lies_in_memory_row_by_row_as_the_kernels_read_it() -> None:
    for width in (6, 200):
        assert hessian_factor(hessian_of(3 * width, width), 0.01).is_contiguous()


def test_the_hessian_is_not_changed() -> None:
    for hessian in (hessian_of(12, 6), hessian_of(12, 6).double()):
        before = hessian.clone()
        hessian_factor(hessian, 0.01)
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
        hessian_factor(hessian, dampening)
    assert torch.isfinite(hessian_factor(hessian, caught.value.suffices)).all()
    if suffices:
        assert caught.value.suffices == pytest.approx(suffices)
    start = 10 * dampening or 1e-4
    if caught.value.suffices > 1.5 * start:  # and the step of the ladder before it does not
        with pytest.raises(NotPositiveDefinite):
            hessian_factor(hessian, caught.value.suffices / 10)


@pytest.mark.parametrize("hessian", [-torch.eye(2), torch.full((2, 2), torch.nan)])
def test_a_hessian_that_no_dampening_helps_is_refused_as_such(hessian: Tensor) -> None:
    with pytest.raises(NotPositiveDefinite, match="no dampening helps") as caught:
        hessian_factor(hessian, 0.01)
    assert caught.value.suffices == math.inf


def test_a_factor_that_is_not_finite_is_no_factor() -> None:
    with pytest.raises(NotPositiveDefinite):
        hessian_factor(torch.diag(torch.tensor([torch.inf, 1.0])), 0.0)


def test_columns_go_by_descending_activation_and_equal_ones_in_their_order() -> None:
    assert activation_order(torch.tensor([1.0, 3.0, 0.0, 3.0, 2.0, 1.0])).tolist() == [1, 3, 4, 0, 5, 2]
