from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nowag_exp.ops.grids import Grid, dequantize, fit_grid, quantize


def random_weight(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def slow_grid(values: list[float], bits: int, symmetric: bool, shrinkage: float) -> tuple[float, int]:
    """Scale and zero point of one group, number by number."""
    low, high = min([*values, 0.0]) * shrinkage, max([*values, 0.0]) * shrinkage
    if symmetric:
        high = max(-low, high)
        low = -high
    scale = float(np.float16((high - low) / (2**bits - 1))) if high > low else 1.0
    zero = 2 ** (bits - 1) if symmetric else min(max(round(-low / scale), 0), 2**bits - 1)
    return scale, zero


def slow_codes(values: list[float], scale: float, zero: int, bits: int) -> list[int]:
    return [min(max(round(float(np.float32(value) / np.float32(scale))) + zero, 0), 2**bits - 1) for value in values]


def slow_error(values: list[float], scale: float, zero: int, bits: int) -> float:
    codes = slow_codes(values, scale, zero, bits)
    return sum((value - (code - zero) * scale) ** 2 for value, code in zip(values, codes, strict=True))


def test_an_asymmetric_grid_worked_by_hand() -> None:
    # 2 bits over [-1, 2]: steps of 1, and -1 is code 0.
    weight = torch.tensor([[-1.0, 0.0, 0.4, 2.0, 1.5, 0.5]])
    grid = fit_grid(weight, 2, None, False, "minmax")
    assert (grid.scales.tolist(), grid.zeros.tolist()) == ([[1.0]], [[1]])
    codes = quantize(weight, grid, 2, None)
    assert codes.tolist() == [[0, 1, 1, 3, 3, 1]]  # halves go to the even number: 1.5 to 2, 0.5 to 0
    assert dequantize(codes, grid, None).tolist() == [[-1.0, 0.0, 0.0, 2.0, 2.0, 0.0]]


def test_a_symmetric_grid_worked_by_hand() -> None:
    # 2 bits over ±3: steps of 2, code 2 is zero; 3 is half way from code 3 to a code 4 that there is not.
    weight = torch.tensor([[-3.0, 0.0, 3.0, 1.1]])
    grid = fit_grid(weight, 2, None, True, "minmax")
    assert (grid.scales.tolist(), grid.zeros.tolist()) == ([[2.0]], [[2]])
    codes = quantize(weight, grid, 2, None)
    assert codes.tolist() == [[0, 2, 3, 3]]
    assert dequantize(codes, grid, None).tolist() == [[-4.0, 0.0, 2.0, 2.0]]


@pytest.mark.parametrize("group_size", [None, 4])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_group_has_the_grid_of_its_own_range(bits: int, symmetric: bool, group_size: int | None) -> None:
    weight = random_weight(3, 12)
    grid = fit_grid(weight, bits, group_size, symmetric, "minmax")
    codes = quantize(weight, grid, bits, group_size)
    size = group_size or 12
    for row in range(3):
        for start in range(0, 12, size):
            values = weight[row, start : start + size].tolist()
            scale, zero = slow_grid(values, bits, symmetric, 1.0)
            at = (row, start // size)
            assert (float(grid.scales[at]), int(grid.zeros[at])) == (scale, zero)
            assert codes[row, start : start + size].tolist() == slow_codes(values, scale, zero, bits)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [None, 8])
def test_the_search_finds_the_least_squared_error_of_all_shrinkages(group_size: int | None, symmetric: bool) -> None:
    weight = random_weight(4, 16) ** 3
    grid = fit_grid(weight, 3, group_size, symmetric, "mse")
    size = group_size or 16
    for row in range(4):
        for start in range(0, 16, size):
            values = weight[row, start : start + size].tolist()
            tries = [slow_grid(values, 3, symmetric, 1 - step / 100) for step in range(81)]
            least = min(slow_error(values, *tried, 3) for tried in tries)
            at = (row, start // size)
            found = slow_error(values, float(grid.scales[at]), int(grid.zeros[at]), 3)
            assert found == pytest.approx(least, rel=1e-5)


def test_a_range_without_error_is_not_shrunk() -> None:
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    for mine, plain in zip(
        fit_grid(weight, 2, None, False, "mse"), fit_grid(weight, 2, None, False, "minmax"), strict=True
    ):
        assert torch.equal(mine, plain)


def test_searching_in_parts_gives_what_each_row_gives_alone() -> None:
    weight = random_weight(300, 512)  # several parts
    together = fit_grid(weight, 4, 64, False, "mse")
    for row in (0, 127, 128, 299):
        alone = fit_grid(weight[row : row + 1], 4, 64, False, "mse")
        assert torch.equal(together.scales[row], alone.scales[0])
        assert torch.equal(together.zeros[row], alone.zeros[0])


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    search=st.sampled_from(["minmax", "mse"]),
    group_size=st.sampled_from([None, 1, 4]),
    exponent=st.integers(-12, 4),
    seed=st.integers(0, 2**16),
)
def test_zero_is_on_every_grid_and_scales_are_positive_numbers_of_fp16(
    bits: int, symmetric: bool, search: Literal["minmax", "mse"], group_size: int | None, exponent: int, seed: int
) -> None:
    weight = random_weight(3, 8, seed) * 10.0**exponent
    weight[:, ::3] = 0.0
    weight[0] = weight[0].abs()  # a range that begins at zero
    weight[1] = -weight[1].abs()  # one that ends there
    grid = fit_grid(weight, bits, group_size, symmetric, search)
    assert bool((grid.scales > 0).all())
    assert torch.equal(grid.scales, grid.scales.half().float())
    codes = quantize(weight, grid, bits, group_size)
    assert int(codes.max()) < 2**bits
    values = dequantize(codes, grid, group_size)
    zeros = values[weight == 0]
    assert zeros.tolist() == [0.0] * len(zeros)
    assert not zeros.signbit().any()
    # What was rounded once stays where it is.
    assert torch.equal(quantize(values, grid, bits, group_size), codes)


@pytest.mark.parametrize("symmetric", [False, True])
def test_rounding_moves_no_weight_by_more_than_half_a_step_and_what_fp16_takes_from_the_range(symmetric: bool) -> None:
    weight = random_weight(20, 64)
    grid = fit_grid(weight, 4, 16, symmetric, "minmax")
    steps = (dequantize(quantize(weight, grid, 4, 16), grid, 16) - weight).abs().reshape(20, 4, 16) / grid.scales[
        :, :, None
    ]
    # The rounded zero point of an asymmetric grid shifts the range by up to half a step.
    assert float(steps.max()) <= 0.5 + 16 * 2**-11 + (0.0 if symmetric else 0.5)


def test_a_group_of_zeros_has_scale_one() -> None:
    for symmetric in (False, True):
        grid = fit_grid(torch.zeros(1, 4), 4, 2, symmetric, "minmax")
        assert grid.scales.tolist() == [[1.0, 1.0]]
        assert dequantize(quantize(torch.zeros(1, 4), grid, 4, 2), grid, 2).tolist() == [[0.0] * 4]


def test_a_tiny_range_gets_the_smallest_scale_of_fp16() -> None:
    grid = fit_grid(torch.tensor([[1e-12, -1e-12]]), 4, None, False, "minmax")
    assert grid.scales.tolist() == [[2**-24]]


@pytest.mark.parametrize("weight", [[[1e6, 0.0]], [[-2e6, 0.0]], [[float("inf"), 0.0]], [[float("nan"), 0.0]]])
def test_a_range_that_fp16_cannot_span_is_refused(weight: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="fp16 holds none above 65504"):
        fit_grid(torch.tensor(weight), 2, None, False, "minmax")


def test_bits_and_group_sizes_that_make_no_grid_are_refused() -> None:
    for bits in (1, 9):
        with pytest.raises(ValueError, match="bits must be from 2 to 8"):
            fit_grid(torch.zeros(1, 4), bits, None, False, "minmax")
    with pytest.raises(ValueError, match="group size of 3 does not divide the input width 4"):
        fit_grid(torch.zeros(1, 4), 4, 3, False, "minmax")
    with pytest.raises(ValueError, match="group size of 3 does not divide the input width 4"):
        quantize(torch.zeros(1, 4), Grid(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.uint8)), 4, 3)
