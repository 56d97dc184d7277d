"""Every format: bits worked by hand, values bit for bit, and the way back from a file."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from nowag_exp.formats import (
    FORMATS,
    CodebookWeight,
    CompressedWeight,
    DenseWeight,
    FormatError,
    IntegerWeight,
    SparseIntegerWeight,
    SparseWeight,
    half_dtype,
)
from nowag_exp.formats.positions import pack_positions, unpack_positions
from nowag_exp.ops.grids import Grid


def randoms(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def n_of_m_mask(rows: int, groups: int, n: int, m: int, seed: int) -> Tensor:
    scores = torch.rand(rows, groups, m, generator=randoms(seed))
    return (scores.argsort(dim=-1).argsort(dim=-1) < n).reshape(rows, groups * m)


def sparse(pattern: str = "unstructured", dtype: torch.dtype = torch.float16) -> SparseWeight:
    weight = torch.randn(6, 16, generator=randoms(0))
    keep = torch.rand(6, 16, generator=randoms(1)) < 0.4 if pattern == "unstructured" else n_of_m_mask(6, 4, 2, 4, 1)
    return SparseWeight.from_mask(weight, keep, pattern, dtype)


def codebook(normalised: bool = True) -> CodebookWeight:
    # 5 rows of 7 inputs in subvectors of 3: three groups, the last one with two padded entries.
    indices = torch.randint(8, (5, 3), generator=randoms(0))
    words = torch.randn(8, 3, generator=randoms(1)).half()
    norms = (torch.rand(5, generator=randoms(2)), torch.rand(7, generator=randoms(3))) if normalised else (None, None)
    return CodebookWeight.of(7, indices, words, *norms)


def integer(symmetric: bool = False, group_size: int = 4, bits: int = 3) -> IntegerWeight:
    codes = torch.randint(2**bits, (5, 8), generator=randoms(0)).to(torch.uint8)
    scales = torch.rand(5, 8 // group_size, generator=randoms(1)).half().float()
    zeros = torch.randint(2**bits, scales.shape, generator=randoms(2)).to(torch.uint8)
    return IntegerWeight.of(codes, Grid(scales, zeros), bits, symmetric)


def sparse_integer(pattern: str = "2:4", symmetric: bool = False) -> SparseIntegerWeight:
    codes = torch.randint(16, (5, 8), generator=randoms(0)).to(torch.uint8)
    scales = torch.rand(5, 2, generator=randoms(1)).half().float()
    zeros = torch.randint(16, (5, 2), generator=randoms(2)).to(torch.uint8)
    keep = n_of_m_mask(5, 2, 2, 4, 3)
    return SparseIntegerWeight.of(codes, Grid(scales, zeros), 4, symmetric, keep, pattern)


EXAMPLES: dict[str, CompressedWeight] = {
    "dense": DenseWeight.of(torch.randn(3, 4, generator=randoms(0)).bfloat16()),
    "sparse": sparse(),
    "sparse 2:4 bf16": sparse("2:4", torch.bfloat16),
    "codebook": codebook(),
    "codebook without norms": codebook(normalised=False),
    "integer": integer(),
    "integer symmetric, one group": integer(symmetric=True, group_size=8),
    "sparse integer": sparse_integer(),
    "sparse integer symmetric": sparse_integer("unstructured", symmetric=True),
}


def test_every_format_has_an_example_here() -> None:
    assert {type(example) for example in EXAMPLES.values()} == set(FORMATS.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_weight_comes_back_from_its_file_bit_for_bit(name: str) -> None:
    weight = EXAMPLES[name]
    stored = save(weight.tensors())
    back = FORMATS[weight.kind].restore(weight.layout(), load(stored))
    assert back.layout() == weight.layout()
    assert torch.equal(back.decompress(), weight.decompress())
    header = 8 + int.from_bytes(stored[:8], "little")
    assert weight.bits == 8 * (len(stored) - header)


@pytest.mark.parametrize("name", EXAMPLES)
def test_tensors_that_do_not_match_the_layout_are_refused_by_name(name: str) -> None:
    weight = EXAMPLES[name]
    cls, tensors = FORMATS[weight.kind], weight.tensors()
    for missing in tensors:
        with pytest.raises(FormatError, match="its layout asks for"):
            cls.restore(weight.layout(), {key: tensor for key, tensor in tensors.items() if key != missing})
        with pytest.raises(FormatError, match=rf"{missing} is .*, its layout asks for"):
            cls.restore(weight.layout(), {**tensors, missing: tensors[missing][:-1]})
        with pytest.raises(FormatError, match=rf"{missing} is float64.*, its layout asks for"):
            cls.restore(weight.layout(), {**tensors, missing: tensors[missing].double()})
    with pytest.raises(FormatError, match="its layout asks for"):
        cls.restore(weight.layout(), {**tensors, "stranger": torch.zeros(1)})


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_layout_with_wrong_keys_or_values_is_refused(name: str) -> None:
    weight = EXAMPLES[name]
    cls, layout = FORMATS[weight.kind], weight.layout()
    with pytest.raises(FormatError, match="the layout of a"):
        cls.check({**layout, "stranger": 1})
    for key, value in layout.items():
        with pytest.raises(FormatError):
            cls.check({other: layout[other] for other in layout if other != key})
        for wrong in ("load", -1, None, 2.5, [value]):
            if type(wrong) is not type(value) or wrong == -1 or key in ("dtype", "pattern"):
                with pytest.raises(FormatError):
                    cls.check({**layout, key: wrong})


def test_bits_of_a_half_sparse_matrix_worked_by_hand() -> None:
    # 4 x 8 weights: 32 bits of mask, 16 kept values of 16 bits.
    weight = torch.ones(4, 8, dtype=torch.bfloat16)
    keep = torch.arange(32).reshape(4, 8) % 2 == 0
    assert SparseWeight.from_mask(weight, keep, "unstructured", torch.bfloat16).bits == 32 + 16 * 16
    assert DenseWeight.of(weight).bits == 32 * 16


@pytest.mark.parametrize(
    ("n", "m", "bits"), [(2, 4, 3), (4, 8, 7), (1, 4, 2), (1, 2, 1), (4, 4, 0), (8, 16, 14), (16, 32, 32)]
)
def test_positions_of_n_of_m_take_the_bits_that_tell_the_masks_apart(n: int, m: int, bits: int) -> None:
    # ⌈log2 C(M, N)⌉ a group: C(4, 2) = 6, C(8, 4) = 70, C(16, 8) = 12870; above M = 16 a bitmask.
    keep = n_of_m_mask(8, 4, n, m, 0)
    packed = pack_positions(keep, f"{n}:{m}")
    assert 8 * packed.numel() == 32 * bits
    assert torch.equal(unpack_positions(packed, f"{n}:{m}", *keep.shape), keep)
    if m <= 16:
        assert bits == math.ceil(math.log2(math.comb(m, n)))


def test_two_of_four_positions_worked_by_hand() -> None:
    # The masks of 2:4 as numbers, position 0 being bit 0: 0011, 0101, 0110, 1001, 1010, 1100. Kept 0 and 1: number 0;
    # kept 2 and 3: number 5; the stream of three bits each is 000 101.
    keep = torch.tensor([[True, True, False, False, False, False, True, True]])
    assert pack_positions(keep, "2:4").tolist() == [0b101000]


def test_a_mask_of_another_pattern_and_a_number_of_no_mask_are_refused() -> None:
    with pytest.raises(ValueError, match="does not keep 2:4"):
        pack_positions(torch.ones(1, 4, dtype=torch.bool), "2:4")
    with pytest.raises(ValueError, match="position number 7 is none of the 6 masks of 2:4"):
        unpack_positions(torch.tensor([7], dtype=torch.uint8), "2:4", 1, 4)


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_decompressing_gives_the_masked_weight_back(rows: int, columns: int, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=randoms(seed)).half()
    keep = torch.rand(rows, columns, generator=randoms(seed + 1)) < 0.5
    held = SparseWeight.from_mask(weight, keep, "unstructured", torch.float16)
    assert torch.equal(held.mask(), keep)
    assert torch.equal(held.decompress(), torch.where(keep, weight, 0))
    assert held.n_nonzero == int(keep.sum())


def test_a_kept_zero_counts_as_kept() -> None:
    held = SparseWeight.from_mask(torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool), "unstructured", torch.float16)
    assert held.n_nonzero == 8


def test_values_are_stored_in_16_bits_and_those_are_what_is_evaluated() -> None:
    assert [half_dtype(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)] == [
        torch.float16,
        torch.float16,
        torch.bfloat16,
    ]
    weight = torch.tensor([[0.1, 1.0]])
    held = SparseWeight.from_mask(weight, weight > 0, "unstructured", torch.float16)
    assert held.decompress().tolist() == [[float(torch.tensor(0.1).half()), 1.0]]


def test_positions_that_mark_another_number_of_weights_are_refused() -> None:
    held = sparse()
    flipped = held.positions.clone()
    flipped[0] ^= 1
    with pytest.raises(FormatError, match=r"positions mark \d+ weights, but there are \d+ values"):
        SparseWeight.restore(held.layout(), {**held.tensors(), "positions": flipped}).decompress()


def test_a_codebook_weight_worked_by_hand() -> None:
    # Two codewords of two; row 0 is codeword 1 then codeword 0 cut off at three inputs; norms scale rows, then columns.
    words = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).half()
    indices = torch.tensor([[1, 0], [0, 0]])
    held = CodebookWeight.of(3, indices, words, torch.tensor([1.0, 10.0]), torch.tensor([1.0, 2.0, 0.5]))
    assert held.decompress().tolist() == [[3.0, 8.0, 0.5], [10.0, 40.0, 5.0]]
    # 4 indices of one bit in a byte, 2 x 2 codewords, 2 + 3 norms.
    assert held.bits == 8 + 16 * (4 + 5)


def test_a_codebook_of_2_bits_on_a_4096_wide_matrix_is_2_bits_and_a_little() -> None:
    # d = 6: 683 subvectors a row with 2 padded entries, 12 bits each, 4096 x 6 codewords, 2 x 4096 norms of 16 bits.
    specs = CodebookWeight.specs({"d_out": 4096, "d_in": 4096, "d": 6, "index_bits": 12, "normalised": True})
    bits = sum(8 * math.prod(spec.shape) * spec.dtype.itemsize for spec in specs.values())
    assert bits == 4096 * 683 * 12 + 16 * (4096 * 6 + 2 * 4096)
    assert 2.03 < bits / 4096**2 < 2.04


def test_an_integer_weight_worked_by_hand() -> None:
    # 3 bits, two groups of two columns: (7 - 1)·0.5, (0 - 1)·0.5, (4 - 4)·2, (5 - 4)·2.
    grid = Grid(torch.tensor([[0.5, 2.0]]), torch.tensor([[1, 4]]))
    held = IntegerWeight.of(torch.tensor([[7, 0, 4, 5]], dtype=torch.uint8), grid, 3, False)
    assert held.decompress().tolist() == [[3.0, -0.5, 0.0, 2.0]]
    # 4 codes and 2 zeros of 3 bits in 2 bytes and 1 byte, 2 scales.
    assert held.bits == 8 * (2 + 1) + 2 * 16


def test_a_sparse_integer_weight_worked_by_hand() -> None:
    # 2:4 keeps the outer two; the removed ones are exactly 0 whatever their code was.
    keep = torch.tensor([[True, False, False, True]])
    codes = torch.tensor([[15, 9, 9, 0]], dtype=torch.uint8)
    held = SparseIntegerWeight.of(codes, Grid(torch.tensor([[0.25]]), torch.tensor([[8]])), 4, True, keep, "2:4")
    assert held.decompress().tolist() == [[1.75, 0.0, 0.0, -2.0]]
    # A position number of 3 bits in a byte, two codes of 4 bits in a byte, one scale, no zeros.
    assert held.bits == 8 + 8 + 16


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True])
def test_integers_of_every_width_decompress_to_code_minus_zero_times_scale(bits: int, symmetric: bool) -> None:
    codes = torch.randint(2**bits, (5, 8), generator=randoms(bits)).to(torch.uint8)
    scales = torch.rand(5, 2, generator=randoms(1)).half().float()
    zeros = torch.full((5, 2), 2 ** (bits - 1))
    if not symmetric:
        zeros = torch.randint(2**bits, (5, 2), generator=randoms(2))
    held = IntegerWeight.of(codes, Grid(scales, zeros), bits, symmetric)
    for i in range(5):
        for j in range(8):
            expected = (float(codes[i, j]) - float(zeros[i, j // 4])) * float(scales[i, j // 4])
            assert float(held.decompress()[i, j]) == expected
