"""Codebook lookup for CUDA, in Triton. Tile sizes follow from reasoning; nothing here was timed on a GPU yet.

The codewords (4096 of 6 in fp16: 48 kB) stay in the L1 cache, from where they are gathered. With one row of activations
that gather is what :func:`product` takes its time for, not the indices' way from memory: tables of partial products, as
on the CPU, would need gathers from shared memory, which Triton offers for registers only.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from nowag_exp.ops.codebook import Packed

COLUMNS = 1024
"""Neighbouring elements of a row that one program of :func:`dense` writes; a row to a program spares divisions."""

PRODUCTS = 2048
"""Products of a codeword's coordinate and an activation that one program holds: 16 in each of 128 threads."""

GROUPS = 64
"""Neighbouring subvectors of a row that one program looks up at a time: 96 bytes of indices of 12 bits."""


@triton.jit
@no_type_check
def _index(indices, value, here, n_bytes, bits: tl.constexpr):
    """Read values of the stream by their numbers: any lies within three bytes."""
    bit = value * bits
    at = bit >> 3
    window = tl.load(indices + at, mask=here & (at < n_bytes), other=0).to(tl.int32)
    window |= tl.load(indices + at + 1, mask=here & (at + 1 < n_bytes), other=0).to(tl.int32) << 8
    window |= tl.load(indices + at + 2, mask=here & (at + 2 < n_bytes), other=0).to(tl.int32) << 16
    return (window >> (bit & 7).to(tl.int32)) & ((1 << bits) - 1)


@triton.jit
@no_type_check
def _dense(
    indices,
    codebook,
    row_norms,
    column_norms,
    out,
    n_bytes,
    d_in,
    n_groups,
    bits: tl.constexpr,
    d: tl.constexpr,
    normalised: tl.constexpr,
    tile: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * tile + tl.arange(0, tile)
    here = column < d_in
    k = _index(indices, row * n_groups + column // d, here, n_bytes, bits)
    value = tl.load(codebook + k * d + column % d, mask=here, other=0.0).to(tl.float32)
    if normalised:
        value *= tl.load(row_norms + row).to(tl.float32)
        value *= tl.load(column_norms + column, mask=here, other=0.0).to(tl.float32)
    tl.store(out + row * d_in + column, value.to(out.dtype.element_ty), mask=here)


@triton.jit
@no_type_check
def _product(
    indices,
    codebook,
    row_norms,
    scaled,
    out,
    n_bytes,
    d_out,
    n_groups,
    n_tokens,
    bits: tl.constexpr,
    d: tl.constexpr,
    normalised: tl.constexpr,
    tile_tokens: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_groups: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    token = tl.arange(0, tile_tokens)
    row_here, token_here = row < d_out, token < n_tokens
    sums = tl.zeros((tile_tokens, tile_rows, tile_groups), tl.float32)
    for start in range(0, n_groups, tile_groups):
        group = start + tl.arange(0, tile_groups)
        group_here = group < n_groups
        here = row_here[:, None] & group_here[None, :]
        k = _index(indices, row[:, None] * n_groups + group[None, :], here, n_bytes, bits)
        for e in tl.static_range(d):
            c = tl.load(codebook + k * d + e, mask=here, other=0.0).to(tl.float32)
            at = token[:, None] * (n_groups * d) + group[None, :] * d + e
            x = tl.load(scaled + at, mask=token_here[:, None] & group_here[None, :], other=0.0)
            sums += c[None, :, :] * x[:, None, :]
    total = tl.sum(sums, axis=2)
    if normalised:
        total *= tl.load(row_norms + row, mask=row_here, other=0.0).to(tl.float32)[None, :]
    at = token[:, None] * d_out + row[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=token_here[:, None] & row_here[None, :])


def dense(weight: Packed, dtype: torch.dtype) -> Float[Tensor, "d_out d_in"]:
    """See :func:`nowag_exp.ops.codebook.dense`."""
    out = torch.empty(weight.d_out, weight.d_in, dtype=dtype, device=weight.indices.device)
    _dense[(weight.d_out, triton.cdiv(weight.d_in, COLUMNS))](
        *(weight.indices, weight.codebook, *_norms(weight), out),
        *(weight.indices.numel(), weight.d_in, weight.n_groups),
        bits=weight.index_bits,
        d=weight.codebook.shape[1],
        normalised=weight.row_norms is not None,
        tile=COLUMNS,
    )
    return out


def product(weight: Packed, activations: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
    """See :func:`nowag_exp.ops.codebook.product`."""
    d, n_tokens = weight.codebook.shape[1], len(activations)
    scaled = activations.float()
    if weight.column_norms is not None:
        scaled = scaled * weight.column_norms.float()
    scaled = torch.nn.functional.pad(scaled, (0, weight.n_groups * d - weight.d_in)).contiguous()
    out = torch.empty(n_tokens, weight.d_out, dtype=activations.dtype, device=activations.device)
    tile_tokens = triton.next_power_of_2(n_tokens)
    tile_rows = max(1, PRODUCTS // (GROUPS * tile_tokens))
    _product[(triton.cdiv(weight.d_out, tile_rows),)](
        *(weight.indices, weight.codebook, _norms(weight)[0], scaled, out),
        *(weight.indices.numel(), weight.d_out, weight.n_groups, n_tokens),
        bits=weight.index_bits,
        d=d,
        normalised=weight.row_norms is not None,
        tile_tokens=tile_tokens,
        tile_rows=tile_rows,
        tile_groups=GROUPS,
    )
    return out


def _norms(weight: Packed) -> tuple[Tensor, Tensor]:
    """Both norms; where there are none, something that is not read."""
    if weight.row_norms is None or weight.column_norms is None:
        return weight.codebook, weight.codebook
    return weight.row_norms, weight.column_norms
