"""The column loop inside one segment, compiled for the CPU; :mod:`.solver_reference` says what it computes.

Sums are taken in the same order and with the same roundings as there, by any number of threads.
"""

from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from nowag_exp.ops.kernels.threads import in_threads, task_edges

TILE = 64
"""Rows that one thread takes through the segment together. Loops over the rows of a tile vectorise because their length
is not known to the compiler; loops of a known length it would unroll into scalar instructions instead."""


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
    n, m = n_of_m or (0, 0)
    n_tied = torch.zeros(len(weights), dtype=torch.int64)
    arrays = [tensor.numpy() for tensor in (weights, factor, mask, scales, zeros, group, n_tied)]
    tiles = task_edges(-(-len(weights) // TILE))
    in_threads(lambda _, bounds: _run_tiles(bounds, *arrays, n, m, np.float32(top)), tiles)
    return n_tied


@numba.njit(nogil=True, cache=True, error_model="numpy")
@no_type_check  # compiled from its source: the tests' shape checks must not wrap it
def _run_tiles(tiles, weights, factor, mask, scales, zeros, group, n_tied, n, m, top):
    for tile in range(tiles[0], tiles[1]):
        of = slice(tile * TILE, min((tile + 1) * TILE, len(weights)))
        _run_tile(weights[of], factor, mask[of], scales[of], zeros[of], group, n_tied[of], n, m, top)


@numba.njit(cache=True, error_model="numpy")
@no_type_check
def _run_tile(weights, factor, mask, scales, zeros, group, n_tied, n, m, top):
    rows, width = weights.shape
    # Transposed: a step works on a column.
    current = np.empty((width, rows), np.float32)
    error = np.empty(rows, np.float32)
    kept = np.empty((width, rows), np.bool_)
    for r in range(rows):
        for j in range(width):
            current[j, r] = weights[r, j]
            kept[j, r] = mask[r, j]
    scale = np.empty(rows, np.float32)
    zero = np.empty(rows, np.float32)
    for j in range(width):
        if m > 0 and j % m == 0:
            _choose(current[j : j + m], factor[j : j + m, j : j + m], kept[j : j + m], n_tied, n)
        if scales.shape[1] > 0:
            if j == 0 or group[j] != group[j - 1]:
                scale[:] = scales[:, group[j]]
                zero[:] = zeros[:, group[j]]
            _round(current[j], kept[j], scale, zero, top, factor[j, j], error)
        else:
            _prune(current[j], kept[j], factor[j, j], error)
        _compensate(current, error, factor, j)
    for r in range(rows):
        for j in range(width):
            weights[r, j] = current[j, r]
            mask[r, j] = kept[j, r]


@numba.njit(error_model="numpy")
@no_type_check
def _round(column, kept, scale, zero, top, diagonal, error):
    nothing = np.float32(0)
    for r in range(len(column)):
        code = np.rint(column[r] / scale[r]) + zero[r]
        code = code if code > nothing else nothing
        code = code if code < top else top
        rounded = (code - zero[r]) * scale[r] if kept[r] else nothing
        error[r] = (column[r] - rounded) / diagonal
        column[r] = rounded


@numba.njit(error_model="numpy")
@no_type_check
def _prune(column, kept, diagonal, error):
    nothing = np.float32(0)
    for r in range(len(column)):
        pruned = column[r] if kept[r] else nothing
        error[r] = (column[r] - pruned) / diagonal
        column[r] = pruned


@numba.njit(error_model="numpy")
@no_type_check
def _compensate(columns, error, factor, j):
    for k in range(j + 1, len(columns)):
        for r in range(columns.shape[1]):
            columns[np.uintp(k), np.uintp(r)] -= error[np.uintp(r)] * factor[j, k]


@numba.njit(error_model="numpy")
@no_type_check
def _choose(columns, factor, kept, n_tied, n):
    """Keep the ``n`` columns that fewer than ``n`` others beat; of equal ones the earlier wins."""
    m, rows = columns.shape
    scores = np.empty((m, rows), np.float32)
    for j in range(m):
        for r in range(rows):
            scores[j, r] = np.abs(columns[j, r]) / factor[j, j]
    for j in range(m):
        higher = np.zeros(rows, np.int32)
        equal_before = np.zeros(rows, np.int32)
        for other in range(m):
            for r in range(rows):
                higher[r] += scores[other, r] > scores[j, r]
                equal_before[r] += (scores[other, r] == scores[j, r]) & (other < j)
        for r in range(rows):
            kept[j, r] = higher[r] + equal_before[r] < n
            n_tied[r] += (higher[r] < n) & (not kept[j, r])
