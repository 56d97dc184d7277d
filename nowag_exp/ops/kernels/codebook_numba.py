"""Codebook lookup for the CPU, compiled by numba when first called.

For :func:`product`, each group of activations is multiplied with all codewords first: ``K · d`` multiply-adds that
vectorise, and then one addition for each row of the weight instead of a gathered codeword and ``d`` multiply-adds. With
4096 codewords of 6, one row of activations, one core with AVX-512, that took 3.3 ms instead of 5.9 at 4096×4096 and was
never slower, down to 576×576 (0.1 ms both ways; November 2026).

``dims`` and ``tokens`` are tuples of zeros, one for each coordinate of a codeword and each row of activations: their
lengths are part of their types, so that loops over them are unrolled. Sums are split where the shape says: the result
does not depend on the number of threads.
"""

from typing import no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numba import njit
from torch import Tensor

from nowag_exp.ops.codebook import Packed
from nowag_exp.ops.kernels.threads import in_threads, task_edges

WINDOW = 3
"""Bytes that hold any value of up to 16 bits, wherever it begins."""

ROWS_AT_ONCE = 256
"""Rows that are looked up before they are rounded to 16 bits."""

TABLES = 16
"""Groups of columns whose partial products are looked up in one pass over the rows."""

PARTS = 8
"""Parts of the columns whose products are summed apart, so that as many threads have work."""

TOKENS = 4
"""Rows of activations that one lookup serves: the tables of more would not stay in a cache."""

FASTMATH = {"contract", "reassoc"}


@njit(error_model="numpy")
@no_type_check
def _index(indices, bit, bits):
    """Read the value at a bit of the stream; the last window ends where the stream does."""
    at = min(np.uintp(bit >> 3), np.uintp(len(indices) - WINDOW))
    window = (
        np.uint32(indices[at])
        | np.uint32(indices[at + np.uintp(1)]) << np.uint32(8)
        | np.uint32(indices[at + np.uintp(2)]) << np.uint32(16)
    )
    return np.uintp((window >> np.uint32(bit - 8 * np.int64(at))) & np.uint32((1 << bits) - 1))


@njit(nogil=True, cache=True, error_model="numpy")
@no_type_check
def _dense(rows, first, indices, bits, codebook, row_norms, column_norms, dims, out):
    d_in = out.shape[1]
    n_whole = d_in // len(dims)
    n_groups = (d_in + len(dims) - 1) // len(dims)
    for r in range(rows[0], rows[1]):
        bit = np.int64(first + r) * n_groups * bits
        norm = row_norms[first + r]
        for g in range(n_whole):
            k = _index(indices, bit, bits)
            for e in range(len(dims)):
                j = np.uintp(g * len(dims) + e)
                out[np.uintp(r), j] = codebook[k, np.uintp(e)] * norm * column_norms[j]
            bit += bits
        if n_groups > n_whole:
            k = _index(indices, bit, bits)
            for j in range(n_whole * len(dims), d_in):
                out[r, j] = codebook[k, j - n_whole * len(dims)] * norm * column_norms[j]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FASTMATH)
@no_type_check
def _product(part, indices, bits, codewords, scaled, dims, tokens, out):
    """Add the products of a range of groups; ``codewords`` has one in each column, ``scaled`` the activations."""
    n_groups = scaled.shape[1]
    tables = np.empty((TABLES, codewords.shape[1], len(tokens)), np.float32)
    for start in range(part[0], part[1], TABLES):
        n = min(TABLES, part[1] - start)
        for i in range(n):
            for k in range(codewords.shape[1]):
                for t in range(len(tokens)):
                    total = np.float32(0)
                    for e in range(len(dims)):
                        total += codewords[np.uintp(e), np.uintp(k)] * scaled[t, start + i, e]
                    tables[np.uintp(i), np.uintp(k), np.uintp(t)] = total
        for r in range(len(out)):
            bit = (np.int64(r) * n_groups + start) * bits
            for i in range(n):
                k = _index(indices, bit, bits)
                for t in range(len(tokens)):
                    out[np.uintp(r), np.uintp(t)] += tables[np.uintp(i), k, np.uintp(t)]
                bit += bits


def dense(weight: Packed, dtype: torch.dtype) -> Float[Tensor, "d_out d_in"]:
    """See :func:`nowag_exp.ops.codebook.dense`; 16 bits are rounded to by torch, some rows at a time."""
    d_out, d_in = weight.d_out, weight.d_in
    out = torch.empty(d_out, d_in, dtype=dtype)
    arguments = (_stream(weight), weight.index_bits, weight.codebook.float().numpy(), *_norms(weight))
    dims = (0,) * weight.codebook.shape[1]
    at_once = d_out if dtype == torch.float32 else ROWS_AT_ONCE
    for first in range(0, d_out, at_once):
        rows = out[first : first + at_once]
        values = rows if dtype == torch.float32 else torch.empty(rows.shape)
        found = values.numpy()
        in_threads(lambda _, part: _dense(part, first, *arguments, dims, found), task_edges(len(rows)))  # noqa: B023
        if values is not rows:
            rows.copy_(values)
    return out


def product(weight: Packed, activations: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
    """See :func:`nowag_exp.ops.codebook.product`."""
    d = weight.codebook.shape[1]
    row_norms, column_norms = map(torch.from_numpy, _norms(weight))
    scaled = F.pad(activations.float() * column_norms, (0, weight.n_groups * d - weight.d_in))
    arguments = (_stream(weight), weight.index_bits, weight.codebook.float().T.contiguous().numpy())
    edges = [weight.n_groups * part // PARTS for part in range(PARTS + 1)]
    out = torch.empty(len(activations), weight.d_out, dtype=activations.dtype)
    for first in range(0, len(activations), TOKENS):
        some = scaled[first : first + TOKENS].reshape(-1, weight.n_groups, d).numpy()
        sums = np.zeros((PARTS, weight.d_out, len(some)), np.float32)
        tuples = ((0,) * d, (0,) * len(some))
        in_threads(lambda part, groups: _product(groups, *arguments, some, *tuples, sums[part]), edges)  # noqa: B023
        out[first : first + TOKENS] = torch.from_numpy(sums.sum(axis=0).T) * row_norms
    return out


def _stream(weight: Packed) -> UInt8[np.ndarray, " bytes"]:
    """The packed indices, at least one window of them."""
    missing = max(0, WINDOW - len(weight.indices))
    return (F.pad(weight.indices, (0, missing)) if missing else weight.indices).numpy()


def _norms(weight: Packed) -> tuple[Float[np.ndarray, " d_out"], Float[np.ndarray, " d_in"]]:
    """Both norms; ones where there are none, which change no value."""
    if weight.row_norms is None or weight.column_norms is None:
        return np.ones(weight.d_out, np.float32), np.ones(weight.d_in, np.float32)
    return weight.row_norms.float().numpy(), weight.column_norms.float().numpy()
