"""The k-means kernels for CUDA, in Triton. No sum depends on the order in which programs run.

They are compiled from their source, which the tests' shape checks must not wrap: hence ``no_type_check``.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Integer
from torch import Tensor

from nowag_exp.ops.kernels.kmeans_reference import CHUNK, draw

POINTS = 64
"""Points of a group that one program assigns."""

CODEWORDS = 64
"""Codewords whose scores are held at a time."""

MEMBERS = 128
"""Points that a program adds to its codeword at a time."""


@triton.jit
@no_type_check
def _assign(
    values,
    weights,
    codebook,
    assignments,
    distances,
    rows,
    n_codewords,
    d: tl.constexpr,
    tile_points: tl.constexpr,
    tile_codewords: tl.constexpr,
):
    blocks = tl.cdiv(rows, tile_points)
    group = tl.program_id(0) // blocks
    row = tl.program_id(0) % blocks * tile_points + tl.arange(0, tile_points)
    point = group.to(tl.int64) * rows + row
    inside = row < rows
    best = tl.full((tile_points,), float("inf"), tl.float32)
    nearest = tl.zeros((tile_points,), tl.int32)
    for start in range(0, n_codewords, tile_codewords):
        k = start + tl.arange(0, tile_codewords)
        exists = k < n_codewords
        norm = tl.zeros((tile_codewords,), tl.float32)
        scores = tl.zeros((tile_points, tile_codewords), tl.float32)
        for e in tl.static_range(d):
            x = tl.load(values + point * d + e, mask=inside, other=0.0)
            w = tl.load(weights + group * d + e)
            c = tl.load(codebook + e * n_codewords + k, mask=exists, other=0.0)
            norm += w * (c * c)
            scores += (-2.0 * (w * x))[:, None] * c[None, :]
        scores = tl.where(exists[None, :], scores + norm[None, :], float("inf"))
        low, at = tl.min(scores, axis=1, return_indices=True, return_indices_tie_break_left=True)
        nearest = tl.where(low < best, start + at, nearest)
        best = tl.minimum(low, best)
    distance = tl.zeros((tile_points,), tl.float32)
    for e in tl.static_range(d):
        x = tl.load(values + point * d + e, mask=inside, other=0.0)
        difference = x - tl.load(codebook + e * n_codewords + nearest)
        distance += tl.load(weights + group * d + e) * (difference * difference)
    tl.store(assignments + point, nearest, mask=inside)
    tl.store(distances + point, distance, mask=inside)


@triton.jit
@no_type_check
def _update(values, weights, members, ends, codewords, moved, rows, d: tl.constexpr, tile: tl.constexpr):
    """Average the points of one codeword, which stand next to each other in ``members``."""
    k = tl.program_id(0)
    start = tl.load(ends + k - 1, mask=k > 0, other=0)
    end = tl.load(ends + k)
    for e in tl.static_range(d):
        weighted = tl.zeros((tile,), tl.float64)
        total = tl.zeros((tile,), tl.float64)
        for first in range(start, end, tile):
            i = first + tl.arange(0, tile)
            point = tl.load(members + i, mask=i < end, other=0)
            w = tl.load(weights + point // rows * d + e, mask=i < end, other=0.0).to(tl.float64)
            x = tl.load(values + point * d + e, mask=i < end, other=0.0).to(tl.float64)
            weighted += w * x
            total += w
        mass = tl.sum(total, axis=0)
        old = tl.load(codewords + k * d + e).to(tl.float64)
        mean = tl.sum(weighted, axis=0) / tl.where(mass > 0, mass, 1.0)
        tl.store(moved + k * d + e, tl.where(mass > 0, mean, old).to(tl.float32))


@triton.jit
@no_type_check
def _refresh(values, weights, drawn, nearest, sums, n, rows, d: tl.constexpr, tile: tl.constexpr):
    """Lower a chunk's distances to the nearest drawn point where the new one is nearer; sum them."""
    point = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    inside = point < n
    distance = tl.zeros((tile,), tl.float32)
    for e in tl.static_range(d):
        x = tl.load(values + point * d + e, mask=inside, other=0.0)
        difference = x - tl.load(values + drawn * d + e)
        w = tl.load(weights + point // rows * d + e, mask=inside, other=0.0)
        distance += w * (difference * difference)
    distance = tl.minimum(distance, tl.load(nearest + point))
    tl.store(nearest + point, distance)
    tl.store(sums + tl.program_id(0), tl.sum(distance.to(tl.float64), axis=0))


def assign(
    values: Float[Tensor, "groups rows d"], weights: Float[Tensor, "groups d"], codewords: Float[Tensor, "K d"]
) -> tuple[Integer[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
    """Find each point's nearest codeword, of equally near ones the first, and its distance."""
    groups, rows, d = values.shape
    assignments = torch.empty((groups, rows), dtype=torch.int32, device=values.device)
    distances = torch.empty((groups, rows), device=values.device)
    _assign[(groups * triton.cdiv(rows, POINTS),)](
        values,
        weights,
        codewords.T.contiguous(),
        assignments,
        distances,
        rows,
        len(codewords),
        d=d,
        tile_points=POINTS,
        tile_codewords=CODEWORDS,
    )
    return assignments, distances


def reassign(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    codewords: Float[Tensor, "K d"],
    old_codewords: Float[Tensor, "K d"],
    old_assignments: Integer[Tensor, "groups rows"],
) -> tuple[Integer[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
    """Assign again after codewords moved; what was known of the old ones is not made use of."""
    return assign(values, weights, codewords)


def update(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    assignments: Integer[Tensor, "groups rows"],
    codewords: Float[Tensor, "K d"],
) -> tuple[Float[Tensor, "K d"], Integer[Tensor, " K"]]:
    """Move each codeword to the weighted mean of its points, in fp64, and count them: one program for each codeword."""
    index = assignments.flatten()
    counts = torch.bincount(index, minlength=len(codewords))
    moved = torch.empty_like(codewords, memory_format=torch.contiguous_format)
    _update[(len(codewords),)](
        values,
        weights,
        torch.argsort(index, stable=True),
        counts.cumsum(0),
        codewords.contiguous(),
        moved,
        values.shape[1],
        d=values.shape[2],
        tile=MEMBERS,
    )
    return moved, counts


def plus_plus(
    values: Float[Tensor, "groups rows d"], weights: Float[Tensor, "groups d"], uniforms: Float[Tensor, " K"]
) -> Integer[Tensor, " K"]:
    """Draw points by D² sampling, in one pass over the points for each."""
    groups, rows, d = values.shape
    n = groups * rows
    n_chunks = triton.cdiv(n, CHUNK)
    # What fills the last chunk is at distance zero: it is never drawn.
    nearest = torch.zeros((n_chunks, CHUNK), device=values.device)
    nearest.view(-1)[:n] = torch.inf
    sums = torch.empty(n_chunks, dtype=torch.float64, device=values.device)
    drawn = [min(int(uniforms[0] * n), n - 1)]
    for uniform in uniforms[1:].tolist():
        _refresh[(n_chunks,)](values, weights, drawn[-1], nearest, sums, n, rows, d=d, tile=CHUNK)
        drawn.append(draw(nearest, sums, uniform))
    return torch.tensor(drawn)
