"""Codebook lookup: bit for bit what the formula says, and a product within the tolerance that is stated."""

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nowag_exp.ops.codebook import Packed, dense, product
from nowag_exp.ops.kernels import codebook_numba
from nowag_exp.ops.packing import pack

OPERATION = "codebook"

SHAPES = [  # d_out, d_in, d, index_bits; only a few d, each is compiled anew
    (5, 7, 3, 3),
    (9, 130, 6, 7),
    (33, 70, 6, 12),
    (1, 1, 3, 0),  # one codeword: no indices at all
    (2, 2, 3, 1),  # fewer bytes than a value may span; a row is less than a codeword
    (3, 40, 3, 16),
]


def packed(d_out: int, d_in: int, d: int, bits: int, *, normalised: bool = True, seed: int = 0) -> Packed:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(2**bits, (d_out * -(-d_in // d),), generator=generator)
    codebook = torch.randn(2**bits, d, generator=generator).half()
    norms = [(torch.rand(n, generator=generator) + 0.5).half() if normalised else None for n in (d_out, d_in)]
    return Packed(d_out, d_in, bits, pack(indices, bits), codebook, *norms)


def slow_dense(weight: Packed) -> Tensor:
    """One element after the other; the stream is read as the number that it is."""
    stream = int.from_bytes(bytes(weight.indices.tolist()), "little")
    d = weight.codebook.shape[1]
    out = torch.empty(weight.d_out, weight.d_in)
    for i in range(weight.d_out):
        for j in range(weight.d_in):
            k = (stream >> (i * weight.n_groups + j // d) * weight.index_bits) % 2**weight.index_bits
            out[i, j] = weight.codebook[k, j % d].float()
            if weight.row_norms is not None and weight.column_norms is not None:
                out[i, j] *= weight.row_norms[i].float()
                out[i, j] *= weight.column_norms[j].float()
    return out


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_dense_weight_is_what_the_formula_says_bit_for_bit(
    kernels: ModuleType, shape: tuple[int, int, int, int], normalised: bool
) -> None:
    weight = packed(*shape, normalised=normalised)
    expected = slow_dense(weight)
    for dtype in (torch.float32, torch.float16):
        found = kernels.dense(weight, dtype)
        assert torch.equal(found, expected.to(dtype))
        assert found.is_contiguous()
    # Triton's interpreter cuts bf16 off where a GPU rounds.
    in_bf16 = kernels.dense(weight, torch.bfloat16)
    if kernels.__name__.endswith("triton"):
        expected = (expected.view(torch.int32) & -(1 << 16)).view(torch.float32)
    assert torch.equal(in_bf16, expected.bfloat16())


@settings(max_examples=30, deadline=None)
@given(d_out=st.integers(1, 20), d_in=st.integers(1, 40), bits=st.integers(0, 16), seed=st.integers(0, 2**16))
def test_indices_of_every_width_are_looked_up(d_out: int, d_in: int, bits: int, seed: int) -> None:
    weight = packed(d_out, d_in, 3, bits, seed=seed)
    assert torch.equal(codebook_numba.dense(weight, torch.float32), slow_dense(weight))


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalised", [True, False])
def test_the_product_is_within_its_tolerance(
    kernels: ModuleType, shape: tuple[int, int, int, int], n: int, normalised: bool
) -> None:
    weight = packed(*shape, normalised=normalised)
    values = slow_dense(weight).double()
    activations = torch.randn(n, weight.d_in, generator=torch.Generator().manual_seed(1))
    exact = activations.double() @ values.T
    tolerance = 2**-20 * (activations.double().abs() @ values.abs().T)
    assert bool(((kernels.product(weight, activations) - exact).abs() <= tolerance).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_product_is_in_the_type_of_the_activations_and_rounded_once(
    kernels: ModuleType, dtype: torch.dtype
) -> None:
    weight = packed(9, 130, 6, 7)
    activations = torch.randn(3, 130, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = kernels.product(weight, activations)
    assert found.dtype == dtype
    exact = activations.double() @ slow_dense(weight).double().T
    # Half a unit in the last place, a whole one where the interpreter cuts off; and what fp32 sums are off by.
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_rows_of_activations_do_not_change_one_another(kernels: ModuleType) -> None:
    weight = packed(9, 130, 6, 7)
    activations = torch.randn(8, 130, generator=torch.Generator().manual_seed(1))
    together = kernels.product(weight, activations)
    one_by_one = torch.cat([kernels.product(weight, row[None]) for row in activations])
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5)
    order = torch.tensor([3, 0, 7, 5, 1, 6, 4, 2])
    torch.testing.assert_close(kernels.product(weight, activations[order]), together[order], rtol=1e-5, atol=1e-5)


def test_the_cpu_rounds_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook_numba, "ROWS_AT_ONCE", 4)
    weight = packed(9, 130, 6, 7)
    assert torch.equal(codebook_numba.dense(weight, torch.bfloat16), slow_dense(weight).bfloat16())


def test_the_number_of_threads_changes_nothing() -> None:
    weight = packed(700, 100, 6, 9)
    activations = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    n_threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append((dense(weight, torch.float32), dense(weight, torch.float16), product(weight, activations)))
    finally:
        torch.set_num_threads(n_threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
