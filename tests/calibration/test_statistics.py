import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nowag_exp.calibration.statistics import Accumulator, SiteListener, from_tensors, to_tensors
from nowag_exp.errors import NowagError
from nowag_exp.methods import Needs, SiteStatistics
from nowag_exp.models import SITES


def accumulated(*batches: torch.Tensor, needs: Needs = Needs.DIAGONAL) -> SiteStatistics:
    listener = SiteListener(needs)
    for batch in batches:
        listener.hear("mlp_input", batch)
        listener.add()
    return listener.accumulators["mlp_input"].result("model.layers.0.mlp.up_proj", lambda: "a weight is NaN")


def test_two_tokens_worked_by_hand() -> None:
    # x = (1, 2) and (3, 0): Σ x² = (10, 4), H_jj = 2/2 Σ x² = (10, 4), ‖X_j‖ = (√10, 2).
    seen = accumulated(torch.tensor([[[1.0, 2.0], [3.0, 0.0]]]))
    assert seen.n_tokens == 2
    assert seen.hessian_diagonal.tolist() == [10, 4]
    assert_close(seen.input_norms, torch.tensor([10**0.5, 2], dtype=torch.float64))


@given(parts=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_any_split_into_batches_gives_the_same(parts: list[int], seed: int) -> None:
    tokens = torch.randn(sum(parts), 6, generator=torch.Generator().manual_seed(seed))
    streamed = accumulated(*tokens.split(parts))
    assert streamed.n_tokens == len(tokens)
    assert_close(streamed.sum_of_squares, tokens.double().square().sum(dim=0), rtol=1e-5, atol=1e-7)


@given(parts=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_the_hessian_is_two_over_n_times_the_sum_of_outer_products(parts: list[int], seed: int) -> None:
    tokens = torch.randn(sum(parts), 6, generator=torch.Generator().manual_seed(seed))
    streamed = accumulated(*tokens.split(parts), needs=Needs.HESSIAN)
    expected = 2 / len(tokens) * sum(torch.outer(x, x) for x in tokens.double())
    assert_close(streamed.hessian.double(), expected, rtol=1e-5, atol=1e-5)
    assert_close(streamed.hessian.diagonal().double(), streamed.hessian_diagonal, rtol=1e-5, atol=1e-7)
    assert accumulated(*tokens.split(parts)).second_moment is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_million_tokens_of_activations_of_ten_thousand_are_added_up_exactly_enough(dtype: torch.dtype) -> None:
    # 1e4² is beyond fp16, and the sum of a million of them, 1e14, beyond what fp32 adds a single one to.
    generator = torch.Generator().manual_seed(0)
    batch = (1e4 * torch.randn(1, 1000, 64, generator=generator)).to(dtype)
    seen = accumulated(*[batch] * 1000, needs=Needs.HESSIAN)
    rows = batch[0].double()
    exact = 2 / len(rows) * rows.T @ rows
    assert seen.n_tokens == 1_000_000
    assert_close(seen.hessian_diagonal, exact.diagonal(), rtol=1e-6, atol=0)
    assert_close(seen.hessian.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.diagonal().mean()))


def test_a_site_that_saw_no_token_raises_and_is_named() -> None:
    with pytest.raises(NowagError, match=r"model\.layers\.0\.mlp\.up_proj: no token reached this input site"):
        Accumulator(Needs.DIAGONAL).result("model.layers.0.mlp.up_proj", lambda: "a weight is NaN")
    with pytest.raises(NowagError, match="no token reached"):
        accumulated(torch.zeros(0, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_that_are_not_finite_raise_and_are_named(bad: float) -> None:
    with pytest.raises(NowagError, match=r"0\.mlp\.up_proj: 1 of 2 input columns have NaN .*; a weight is NaN$"):
        accumulated(torch.tensor([[bad, 1.0]]))


def test_statistics_survive_the_store() -> None:
    blocks = [
        {site.name: SiteStatistics(3 + i, torch.rand(4, dtype=torch.float64), torch.rand(4, 4)) for site in SITES}
        for i in range(2)
    ]
    back = from_tensors(to_tensors(blocks), 2)
    for before, after in zip(blocks, back, strict=True):
        for site in SITES:
            assert before[site.name].n_tokens == after[site.name].n_tokens
            assert torch.equal(before[site.name].sum_of_squares, after[site.name].sum_of_squares)
            assert torch.equal(before[site.name].second_moment, after[site.name].second_moment)
