import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nowag_exp.ops.normalise import EPSILON, Normalise, normalise

BY = st.sampled_from(["both", "columns", "rows", "none"])


def test_two_by_two_worked_by_hand() -> None:
    # Columns (3, 4) and (0, 2) have norms 5 and 2, so W / r1 = [[0.6, 0], [0.8, 1]]; its rows have norms 0.6 and √1.64.
    result = normalise(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
    assert_close(result.column_norms, torch.tensor([5.0, 2.0]) + EPSILON)
    assert_close(result.row_norms, torch.tensor([0.6, 1.64**0.5]) + EPSILON, rtol=1e-5, atol=1e-5)
    assert_close(result.weight, torch.tensor([[1.0, 0.0], [0.8 / 1.64**0.5, 1 / 1.64**0.5]]), rtol=1e-4, atol=1e-5)


def test_each_norm_alone_worked_by_hand() -> None:
    weight = torch.tensor([[3.0, 0.0], [4.0, 2.0]])
    columns, rows, none = (normalise(weight, by) for by in ("columns", "rows", "none"))
    # Columns have norms 5 and 2, rows 3 and √20.
    assert_close(columns.weight, torch.tensor([[0.6, 0.0], [0.8, 1.0]]), rtol=1e-4, atol=1e-5)
    assert_close(columns.column_norms, torch.tensor([5.0, 2.0]) + EPSILON)
    assert torch.equal(columns.row_norms, torch.ones(2))
    assert_close(rows.weight, torch.tensor([[1.0, 0.0], [4 / 20**0.5, 2 / 20**0.5]]), rtol=1e-4, atol=1e-5)
    assert_close(rows.row_norms, torch.tensor([3.0, 20**0.5]) + EPSILON)
    assert torch.equal(rows.column_norms, torch.ones(2))
    assert torch.equal(none.weight, weight)
    assert torch.equal(none.row_norms, torch.ones(2))
    assert torch.equal(none.column_norms, torch.ones(2))


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**16), by=BY)
def test_the_norms_give_the_weight_back(rows: int, columns: int, scale: float, seed: int, by: Normalise) -> None:
    weight = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    found = normalise(weight, by)
    assert_close(found.weight * found.row_norms[:, None] * found.column_norms, weight, rtol=1e-5, atol=1e-6 * scale)


def test_every_row_of_a_normalised_weight_has_norm_one() -> None:
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    norms = torch.linalg.vector_norm(normalise(weight).weight, dim=1)
    assert_close(norms, torch.ones(64), rtol=1e-4, atol=1e-4)


def test_zero_columns_and_rows_stay_zero_and_finite() -> None:
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    weight[:, 1] = 0
    weight[2] = 0
    normalised = normalise(weight).weight
    assert torch.isfinite(normalised).all()
    assert (normalised[:, 1] == 0).all()
    assert (normalised[2] == 0).all()


def test_half_precision_weights_are_normalised_in_fp32() -> None:
    weight = (
        torch.full((2048, 2), 1.0, dtype=torch.float16) * 100
    )  # The squares of a column add up to more than fp16 holds.
    result = normalise(weight)
    assert result.weight.dtype == torch.float32
    assert_close(result.column_norms, torch.full((2,), 100 * 2048**0.5), rtol=1e-6, atol=1e-3)
