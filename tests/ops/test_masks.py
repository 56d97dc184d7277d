import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nowag_exp.ops.masks import (
    SMALL_GROUP,
    keep_top,
    n_of_m_mask,
    rowwise_mask,
    unstructured_mask,
)

OPERATION = "selection"


def slow_keep_top(scores: Tensor, keep: int) -> Tensor:
    """Sort each group in Python: highest score first, then lowest index."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row, values in enumerate(scores.tolist()):
        ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
        mask[row, ranked[:keep]] = True
    return mask


def test_two_of_four_worked_by_hand() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0, 5.0, 5.0, 5.0, 9.0]])
    assert n_of_m_mask(scores, 2, 4).mask.tolist() == [[False, True, True, False, True, False, False, True]]


def test_unstructured_compares_over_the_whole_matrix_and_rowwise_within_rows() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert unstructured_mask(scores, 0.5).mask.tolist() == [[False, False], [True, True]]
    assert rowwise_mask(scores, 0.5).mask.tolist() == [[False, True], [False, True]]


@given(
    groups=st.integers(1, 5),
    n=st.integers(1, 3 * SMALL_GROUP),
    levels=st.integers(1, 50),  # few levels: many ties
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_selection_equals_sorting_with_any_number_of_ties(
    groups: int, n: int, levels: int, seed: int, data: st.DataObject
) -> None:
    scores = torch.randint(levels, (groups, n), generator=torch.Generator().manual_seed(seed)).float()
    keep = data.draw(st.integers(0, n))
    assert torch.equal(keep_top(scores, keep).mask, slow_keep_top(scores, keep))


def slow_count_tied(scores: Tensor, mask: Tensor) -> int:
    groups = zip(scores.tolist(), mask.tolist(), strict=True)
    kept = [{score for score, stays in zip(*group, strict=True) if stays} for group in groups]
    return sum(
        score in here
        for row, stays, here in zip(scores.tolist(), mask.tolist(), kept, strict=True)
        for score, stay in zip(row, stays, strict=True)
        if not stay
    )


@given(groups=st.integers(1, 5), n=st.integers(2, 3 * SMALL_GROUP), levels=st.integers(1, 50), seed=st.integers(0, 999))
def test_ties_that_position_decides_are_counted(groups: int, n: int, levels: int, seed: int) -> None:
    scores = torch.randint(levels, (groups, n), generator=torch.Generator().manual_seed(seed)).float()
    mask, n_tied = keep_top(scores, n // 2)
    assert n_tied == slow_count_tied(scores, mask)


SCORES = {
    "real": lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(0)),
    "few levels": lambda *shape: torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).float(),
    "tiny": lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-40,
    "from tiny to huge": lambda *shape: torch.logspace(-44, 38, math.prod(shape)).reshape(shape),
    "zeros of both signs": lambda *shape: torch.zeros(shape) * torch.tensor([1.0, -1.0]).repeat(shape[-1])[: shape[-1]],
}


@pytest.mark.parametrize("make", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("shape", [(4, 30), (1, 1000), (300, 17)])
def test_every_kernel_finds_the_kth_highest_of_each_group(
    kernels: ModuleType, make: Callable[..., Tensor], shape: tuple[int, int]
) -> None:
    scores = make(*shape)
    in_order = scores.sort(dim=1, descending=True).values
    for k in (1, 7, shape[1]):
        assert torch.equal(kernels.kth_highest(scores, k), in_order[:, k - 1 : k])


@pytest.mark.parametrize("make", SCORES.values(), ids=SCORES)
def test_a_gpu_counts_the_digits_of_groups_that_no_program_holds(
    make: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from nowag_exp.ops.kernels import selection_triton

    for name, size in (("LONGEST_HELD", 16), ("COUNTED", 128), ("STEP", 64)):
        monkeypatch.setattr(selection_triton, name, size)
    for shape in ((1, 1000), (3, 129)):
        scores = make(*shape)
        in_order = scores.sort(dim=1, descending=True).values
        for k in (1, 65, shape[1]):
            assert torch.equal(selection_triton.kth_highest(scores, k), in_order[:, k - 1 : k])


def test_a_gpu_selects_fp32_alone() -> None:
    pytest.importorskip("triton")
    from nowag_exp.ops.kernels import selection_triton

    with pytest.raises(ValueError, match=r"scores must be float32; got torch\.float16"):
        selection_triton.kth_highest(torch.zeros(1, 20).half(), 1)


def test_mask_of_a_strided_view_is_right() -> None:
    scores = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).T
    assert torch.equal(keep_top(scores, 11).mask, slow_keep_top(scores, 11))


@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.5, 1 / 3, 0.7, 0.999])
def test_counts_are_exact(sparsity: float) -> None:
    scores = torch.randn(30, 70, generator=torch.Generator().manual_seed(0))
    assert int((~unstructured_mask(scores, sparsity).mask).sum()) == int(2100 * sparsity)
    assert (~rowwise_mask(scores, sparsity).mask).sum(dim=1).tolist() == [int(70 * sparsity)] * 30


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (4, 8), (1, 16), (16, 32), (4, 4)])
def test_n_of_m_mask_keeps_n_of_every_m(n: int, m: int) -> None:
    scores = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    assert (n_of_m_mask(scores, n, m).mask.reshape(-1, m).sum(dim=1) == n).all()


def test_a_width_that_m_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="4 does not divide the input width 6"):
        n_of_m_mask(torch.zeros(2, 6), 2, 4)


def test_keeping_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot keep 3 of 2 scores"):
        keep_top(torch.zeros(1, 2), 3)
