import torch
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.formats import DenseWeight, SparseWeight


def test_bits_of_a_half_sparse_matrix_worked_by_hand() -> None:
    # 4 x 8 weights: 32 bits of mask, 16 kept values of 16 bits.
    weight = torch.ones(4, 8, dtype=torch.bfloat16)
    keep = torch.arange(32).reshape(4, 8) % 2 == 0
    assert SparseWeight.from_mask(weight, keep).bits == 32 + 16 * 16
    assert DenseWeight(weight).bits == 32 * 16


def test_a_mask_that_does_not_fill_its_last_byte_is_counted_with_it() -> None:
    weight = torch.ones(3, 3)
    assert SparseWeight.from_mask(weight, weight > 2).bits == 16


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_decompressing_gives_the_masked_weight_back(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    keep = torch.rand(rows, columns, generator=generator) < 0.5
    sparse = SparseWeight.from_mask(weight, keep)
    assert torch.equal(sparse.mask(), keep)
    assert torch.equal(sparse.decompress(), torch.where(keep, weight, 0))
    assert sparse.n_nonzero == int(keep.sum())


def test_a_kept_zero_counts_as_kept() -> None:
    weight = torch.zeros(2, 4)
    keep = torch.ones(2, 4, dtype=torch.bool)
    assert SparseWeight.from_mask(weight, keep).n_nonzero == 8
