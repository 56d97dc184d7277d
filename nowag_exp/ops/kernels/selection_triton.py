"""Selection for CUDA without a sort, in Triton. Scores are compared as integers in the order of their bit patterns.

Short groups, the rows of a matrix, are read once: a program holds some of them and finds the bits of the threshold from
the highest down, by counting. Long ones, a whole matrix, are read four times: many programs count the digits of 8 bits,
and one finds the digit where the count from above reaches ``k``. The counts are integers, so that the result does not
depend on the order in which programs add them. The bound is four times the time to read the scores; no GPU was at hand
to measure it.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

LONGEST_HELD = 16384
"""Scores of a group that one program can hold: 64 in each of 256 threads."""

HELD = 4096
"""Scores that a program holds at least, so that short groups share one."""

COUNTED = 16384
"""Scores of a long group whose digits one program counts."""

STEP = 2048
"""Scores that it counts at a time."""

DIGIT = tl.constexpr(8)
DIGITS = tl.constexpr(256)


@triton.jit
@no_type_check
def _ordered(scores):
    """Map fp32 to uint32 so that the order is the same: negative numbers are turned round and put below."""
    bits = scores.to(tl.uint32, bitcast=True)
    return tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
@no_type_check
def _original(ordered):
    bits = tl.where(ordered >> 31 != 0, ordered & 0x7FFFFFFF, ordered ^ 0xFFFFFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def _select_held(scores, thresholds, n_groups, n, k, tile_groups: tl.constexpr, tile: tl.constexpr):
    group = tl.program_id(0).to(tl.int64) * tile_groups + tl.arange(0, tile_groups)
    position = tl.arange(0, tile)
    here = (group < n_groups)[:, None] & (position < n)[None, :]
    value = _ordered(tl.load(scores + group[:, None] * n + position[None, :], mask=here, other=0.0))
    threshold = tl.zeros((tile_groups,), tl.uint32)
    for i in range(32):
        higher = threshold | (tl.full((tile_groups,), 1, tl.uint32) << (31 - i))
        count = tl.sum((here & (value >= higher[:, None])).to(tl.int32), axis=1)
        threshold = tl.where(count >= k, higher, threshold)
    tl.store(thresholds + group, _original(threshold), mask=group < n_groups)


@triton.jit
@no_type_check
def _count(scores, found, counts, n, shift, counted: tl.constexpr, step: tl.constexpr):
    """Count one digit of the scores of a group whose digits above it are those found."""
    group = tl.program_id(0).to(tl.int64)
    above = tl.load(found + group).to(tl.uint32, bitcast=True)
    histogram = tl.zeros((DIGITS,), tl.int32)
    for start in range(0, counted, step):
        position = tl.program_id(1).to(tl.int64) * counted + start + tl.arange(0, step)
        value = _ordered(tl.load(scores + group * n + position, mask=position < n, other=0.0))
        # Two shifts: one by all 32 bits would not be defined.
        among = (position < n) & ((value ^ above) >> shift >> DIGIT == 0)
        digit = ((value >> shift) & (DIGITS - 1)).to(tl.int32)
        histogram += tl.histogram(digit, DIGITS, mask=among)
    tl.atomic_add(counts + group * DIGITS + tl.arange(0, DIGITS), histogram, mask=histogram > 0)


@triton.jit
@no_type_check
def _narrow(counts, found, left, thresholds, shift):
    """Find the digit where the count from above reaches what is left of ``k``; leave the counts at zero."""
    group = tl.program_id(0).to(tl.int64)
    digit = tl.arange(0, DIGITS)
    count = tl.load(counts + group * DIGITS + digit)
    wanted = tl.load(left + group)
    not_below = tl.cumsum(count, axis=0, reverse=True)
    chosen = tl.sum((not_below >= wanted).to(tl.int32), axis=0) - 1
    above = tl.sum(tl.where(digit > chosen, count, 0), axis=0)
    value = tl.load(found + group).to(tl.uint32, bitcast=True) | (chosen.to(tl.uint32) << shift)
    tl.store(found + group, value.to(tl.int32, bitcast=True))
    tl.store(left + group, wanted - above)
    tl.store(thresholds + group, _original(value))
    tl.store(counts + group * DIGITS + digit, tl.zeros((DIGITS,), tl.int32))


def kth_highest(scores: Float[Tensor, "groups n"], k: int) -> Float[Tensor, "groups 1"]:
    """See :func:`nowag_exp.ops.kernels.selection_reference.kth_highest`; of fp32 alone."""
    if scores.dtype != torch.float32:
        raise ValueError(f"scores must be float32; got {scores.dtype}")
    n_groups, n = scores.shape
    scores = scores.contiguous()
    thresholds = scores.new_empty(n_groups, 1)
    if n <= LONGEST_HELD:
        tile = triton.next_power_of_2(n)
        tile_groups = max(1, HELD // tile)
        grid = (triton.cdiv(n_groups, tile_groups),)
        _select_held[grid](scores, thresholds, n_groups, n, k, tile_groups=tile_groups, tile=tile, num_warps=8)
        return thresholds
    found = torch.zeros(n_groups, dtype=torch.int32, device=scores.device)
    left = torch.full_like(found, k)
    counts = torch.zeros(n_groups, DIGITS.value, dtype=torch.int32, device=scores.device)
    for shift in range(32 - DIGIT.value, -1, -DIGIT.value):
        _count[(n_groups, triton.cdiv(n, COUNTED))](scores, found, counts, n, shift, counted=COUNTED, step=STEP)
        _narrow[(n_groups,)](counts, found, left, thresholds, shift)
    return thresholds
