"""The column loop inside one segment, compiled for a GPU; :mod:`.solver_reference` says what it computes."""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

TILE = 16
"""Rows of one program: small, so that a matrix of some thousand rows keeps all multiprocessors busy."""

HALF_TO_EVEN = tl.constexpr(1.5 * 2**23)
"""Adding and subtracting it leaves fp32 no fraction bits; numbers of up to 2²² are rounded, halves to even."""

BEYOND_ANY_CODE = tl.constexpr(1024.0)


def run_segment(
    weights: Float[Tensor, "rows width"],
    factor: Float[Tensor, "width width"],
    mask: Bool[Tensor, "rows width"],
    n_of_m: tuple[int, int] | None,
    scales: Float[Tensor, "rows groups"],
    zeros: UInt8[Tensor, "rows groups"],
    group: Int64[Tensor, " width"],
    top: int,
) -> Int64[Tensor, " rows"]:
    """See :func:`nowag_exp.ops.kernels.solver_reference.run_segment`."""
    rows, width = weights.shape
    n, m = n_of_m or (0, 0)
    n_tied = torch.zeros(rows, dtype=torch.int64, device=weights.device)
    tables = (scales.contiguous(), zeros.contiguous()) if scales.shape[1] else (weights, mask.view(torch.uint8))
    _run_segment[(triton.cdiv(rows, TILE),)](
        *(weights, weights.stride(0), mask.view(torch.uint8), mask.stride(0)),
        *(factor, factor.stride(0), *tables, scales.shape[1], group, n_tied, rows, width, float(top)),
        n=n,
        m=m,
        rounded=scales.shape[1] > 0,
        tile=TILE,
        padded_width=triton.next_power_of_2(width),
        enable_fp_fusion=False,  # products are rounded before they are added, as in the twin
    )
    return n_tied


@triton.jit
@no_type_check  # compiled from its source: the tests' shape checks must not wrap it
def _run_segment(
    weights,
    weights_stride,
    mask,
    mask_stride,
    factor,
    factor_stride,
    scales,
    zeros,
    n_groups,
    group,
    n_tied,
    rows,
    width,
    top,
    n: tl.constexpr,
    m: tl.constexpr,
    rounded: tl.constexpr,
    tile: tl.constexpr,
    padded_width: tl.constexpr,
):
    row = (tl.program_id(0) * tile + tl.arange(0, tile)).to(tl.int64)
    column = tl.arange(0, padded_width)
    row_here = row < rows
    column_here = column < width
    here = row_here[:, None] & column_here[None, :]
    weights_at = weights + row[:, None] * weights_stride + column[None, :]
    mask_at = mask + row[:, None] * mask_stride + column[None, :]
    current = tl.load(weights_at, mask=here, other=0.0)
    kept = tl.load(mask_at, mask=here, other=0).to(tl.int32)
    diagonal = tl.load(factor + column * (factor_stride + 1), mask=column_here, other=1.0)
    tied = tl.zeros((tile,), tl.int32)
    for j in range(width):
        is_j = (column == j)[None, :]
        if m > 0:  # noqa: SIM102 (the compiler knows m, and must not see j % 0)
            if j % m == 0:
                scores = tl.math.div_rn(tl.abs(current), tl.broadcast_to(diagonal[None, :], (tile, padded_width)))
                higher = tl.zeros((tile, padded_width), tl.int32)
                equal_before = tl.zeros((tile, padded_width), tl.int32)
                for other in range(j, j + m):
                    score = tl.sum(tl.where((column == other)[None, :], scores, 0.0), axis=1)[:, None]
                    higher += (score > scores).to(tl.int32)
                    equal_before += ((score == scores) & (column > other)[None, :]).to(tl.int32)
                chosen = (higher + equal_before < n).to(tl.int32)
                among = ((column >= j) & (column < j + m))[None, :]
                kept = tl.where(among, chosen, kept)
                tied += tl.sum((among & (higher < n) & (chosen == 0)).to(tl.int32), axis=1)
        weight = tl.sum(tl.where(is_j, current, 0.0), axis=1)  # one weight and zeros: exact
        result = weight
        if rounded:
            of = row * n_groups + tl.load(group + j)
            scale = tl.load(scales + of, mask=row_here, other=1.0)
            zero = tl.load(zeros + of, mask=row_here, other=0).to(tl.float32)
            steps = tl.math.div_rn(weight, scale)
            steps = tl.minimum(tl.maximum(steps, -BEYOND_ANY_CODE), BEYOND_ANY_CODE)
            steps = (steps + HALF_TO_EVEN) - HALF_TO_EVEN
            result = (tl.minimum(tl.maximum(steps + zero, 0.0), top) - zero) * scale
        result = tl.where(tl.sum(tl.where(is_j, kept, 0), axis=1) > 0, result, 0.0)
        factor_row = tl.load(factor + j * factor_stride + column, mask=column_here & (column >= j), other=0.0)
        divisor = tl.sum(tl.where(column == j, factor_row, 0.0), axis=0)
        e = tl.math.div_rn(weight - result, tl.broadcast_to(divisor, (tile,)))
        after = (column > j)[None, :]
        current = tl.where(is_j, result[:, None], tl.where(after, current - e[:, None] * factor_row[None, :], current))
    tl.store(weights_at, current, mask=here)
    tl.store(mask_at, kept.to(tl.uint8), mask=here)
    tl.store(n_tied + row, tied.to(tl.int64), mask=row_here)
