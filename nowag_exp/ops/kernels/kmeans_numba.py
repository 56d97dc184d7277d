"""The k-means kernels for the CPU, compiled by numba when first called.

The kernels are compiled from their source, which the tests' shape checks must not wrap: hence ``no_type_check``.

``dims`` is a tuple of ``d`` zeros: its length is part of its type, so every loop over the coordinates of a point has a
length known to the compiler and is unrolled, and each ``d`` that occurs is compiled once.

The loops over codewords and over points vectorise because a minimum is written as LLVM's ``minnum``; numba's own
``min`` and a comparison become a select that LLVM does not take for a reduction. No floating-point sum is reassociated
but those of :func:`_refresh`, and all sums are split where the shape says: the result does not depend on the number of
threads.
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Integer
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic
from torch import Tensor

from nowag_exp.ops.kernels.threads import in_threads, task_edges

BLOCK = 256
"""Codewords whose minimum is taken before it is compared with the best so far."""

LANES = 64
"""The number of codewords is padded to a multiple of this: four AVX-512 vectors, so that no loop has a remainder."""

ROWS = 512
"""Points of a group that are one task of the assignment."""

CHUNK = 1024
"""Points under one partial sum of the D² sampling, at most."""

MOSTLY = 0.9
"""Part of the codewords above which, when they move, all are searched again."""

FAR = np.float32(3e38)
"""The score of a codeword that pads the codebook; finite, so that no arithmetic on it is undefined."""

NOWHERE = np.int32(2**31 - 1)

FASTMATH = {"contract", "nnan", "nsz"}


@intrinsic
@no_type_check
def _minimum(typing_context, a, b):
    @no_type_check
    def generate(context, builder, signature, arguments):
        kind = arguments[0].type
        minnum = builder.module.declare_intrinsic("llvm.minnum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(minnum, arguments)

    return a(a, b), generate


@njit(fastmath=FASTMATH)
@no_type_check
def _score(points, i, codebook, norms, k, dims):
    """``n_k - 2 Σ_e w_e x_e c_ke``: the distance less its part without a codeword; ``points`` has ``-2 w_e x_e``."""
    score = norms[np.uintp(k)]
    for e in range(len(dims)):
        score += points[np.uintp(i), np.uintp(e)] * codebook[np.uintp(e), np.uintp(k)]
    return score


@njit(fastmath=FASTMATH)
@no_type_check
def _minimum_of_four(points, i, codebook, norms, start, stop, dims):
    """Take the lowest score of four points in a block: a vector of codewords is loaded once for all four."""
    low0 = low1 = low2 = low3 = FAR
    for k in range(start, stop):
        low0 = _minimum(low0, _score(points, i, codebook, norms, k, dims))
        low1 = _minimum(low1, _score(points, i + 1, codebook, norms, k, dims))
        low2 = _minimum(low2, _score(points, i + 2, codebook, norms, k, dims))
        low3 = _minimum(low3, _score(points, i + 3, codebook, norms, k, dims))
    return low0, low1, low2, low3


@njit(fastmath=FASTMATH)
@no_type_check
def _first_lowest(points, i, codebook, norms, start, stop, dims, scores):
    """Find the first codeword of a block with the block's lowest score, and that score."""
    low = FAR
    for k in range(start, stop):
        score = _score(points, i, codebook, norms, k, dims)
        scores[np.uintp(k - start)] = score
        low = _minimum(low, score)
    first = NOWHERE
    for k in range(stop - start):
        first = min(first, np.int32(k) if scores[np.uintp(k)] == low else NOWHERE)
    return start + first, low


@njit(fastmath=FASTMATH, error_model="numpy")
@no_type_check
def _search(points, n, codebook, norms, dims, nearest, lowest):
    """Find the first codeword with the lowest score for each of the ``n`` points: first its block, then itself."""
    width = len(norms)
    scores = np.empty(BLOCK, np.float32)
    blocks = np.empty(4, np.int64)
    lows = np.empty(4, np.float32)
    for i in range(0, n, 4):
        blocks[:] = 0
        lows[:] = np.inf
        if width > BLOCK:
            for start in range(0, width, BLOCK):
                here = _minimum_of_four(points, i, codebook, norms, start, min(start + BLOCK, width), dims)
                for j in range(4):
                    if here[j] < lows[j]:
                        lows[j] = here[j]
                        blocks[j] = start
        for j in range(min(4, n - i)):
            stop = min(blocks[j] + BLOCK, width)
            k, lowest[i + j] = _first_lowest(points, i + j, codebook, norms, blocks[j], stop, dims, scores)
            # Where scores overflow none is the lowest: the result is worthless then, but must be a codeword.
            nearest[i + j] = k if k < width else 0


@njit(fastmath=FASTMATH)
@no_type_check
def _norms(codebook, n_codewords, weights, g, dims):
    """``n_k = Σ_e w_e c_ke²`` in the metric of a group."""
    norms = np.zeros(codebook.shape[1], np.float32)
    for e in range(len(dims)):
        for k in range(len(norms)):
            norms[k] += weights[g, e] * (codebook[e, k] * codebook[e, k])
    norms[n_codewords:] = FAR
    return norms


@njit(fastmath=FASTMATH)
@no_type_check
def _settle(values, weights, codebook, g, r, k, dims, assignments, distances):
    distance = np.float32(0)
    for e in range(len(dims)):
        difference = values[g, r, e] - codebook[e, k]
        distance += weights[g, e] * (difference * difference)
    assignments[g, r] = k
    distances[g, r] = distance


@njit(nogil=True, fastmath=FASTMATH, cache=True, error_model="numpy")
@no_type_check
def _assign(tasks, values, weights, codebook, n_codewords, dims, assignments, distances):
    rows = values.shape[1]
    parts = (rows + ROWS - 1) // ROWS
    for task in range(tasks[0], tasks[1]):
        g = task // parts
        first = (task % parts) * ROWS
        n = min(ROWS, rows - first)
        norms = _norms(codebook, n_codewords, weights, g, dims)
        # Up to three rows more than there are points, so that four can always be read.
        points = np.zeros((n + 3, len(dims)), np.float32)
        nearest = np.empty(n, np.int64)
        lowest = np.empty(n, np.float32)
        for i in range(n):
            for e in range(len(dims)):
                points[i, e] = np.float32(-2) * (weights[g, e] * values[g, first + i, e])
        _search(points, n, codebook, norms, dims, nearest, lowest)
        for i in range(n):
            _settle(values, weights, codebook, g, first + i, nearest[i], dims, assignments, distances)


@njit(nogil=True, fastmath=FASTMATH, cache=True, error_model="numpy")
@no_type_check
def _reassign(tasks, values, weights, codebook, n_codewords, old_codebook, moved, dims, assignments, distances):
    """Update ``assignments``, which are right for ``old_codebook``; ``moved`` lists where the codebooks differ."""
    rows = values.shape[1]
    parts = (rows + ROWS - 1) // ROWS
    width = max((len(moved) + LANES - 1) // LANES, 1) * LANES
    moved_codebook = np.zeros((len(dims), width), np.float32)
    for e in range(len(dims)):
        for j in range(len(moved)):
            moved_codebook[e, j] = codebook[e, moved[j]]
    for task in range(tasks[0], tasks[1]):
        g = task // parts
        first = (task % parts) * ROWS
        n = min(ROWS, rows - first)
        norms = _norms(codebook, n_codewords, weights, g, dims)
        old_norms = _norms(old_codebook, n_codewords, weights, g, dims)
        moved_norms = _norms(moved_codebook, len(moved), weights, g, dims)
        # Points that are no farther from their codeword than before come from the front, the others from the back.
        points = np.zeros((n + 3, len(dims)), np.float32)
        others = np.zeros((n + 3, len(dims)), np.float32)
        nearest = np.empty(n, np.int64)
        lowest = np.empty(n, np.float32)
        own = np.empty(n, np.float32)
        origin = np.empty(n, np.int64)
        n_near = n_far = 0
        for i in range(n):
            k = assignments[g, first + i]
            for e in range(len(dims)):
                points[n_near, e] = np.float32(-2) * (weights[g, e] * values[g, first + i, e])
            score = _score(points, n_near, codebook, norms, k, dims)
            if score <= _score(points, n_near, old_codebook, old_norms, k, dims):
                own[n_near] = score
                origin[n_near] = i
                n_near += 1
            else:
                for e in range(len(dims)):
                    others[n_far, e] = points[n_near, e]
                n_far += 1
                origin[n - n_far] = i
        _search(points, n_near, moved_codebook, moved_norms, dims, nearest, lowest)
        for j in range(n_near):
            r = first + origin[j]
            k = assignments[g, r]
            if lowest[j] < own[j]:
                k = moved[nearest[j]]
            elif lowest[j] == own[j]:
                k = min(k, moved[nearest[j]])
            _settle(values, weights, codebook, g, r, k, dims, assignments, distances)
        _search(others, n_far, codebook, norms, dims, nearest, lowest)
        for j in range(n_far):
            r = first + origin[n - 1 - j]
            _settle(values, weights, codebook, g, r, nearest[j], dims, assignments, distances)


@njit(nogil=True, cache=True, error_model="numpy")
@no_type_check
def _sum_points(points, values, weights, assignments, dims, sums, counts):
    """Add ``w x`` and ``w`` of a range of points to their codewords."""
    rows = values.shape[1]
    for i in range(points[0], points[1]):
        g, r = i // rows, i % rows
        k = assignments[g, r]
        counts[k] += 1
        for e in range(len(dims)):
            weight = np.float64(weights[g, e])
            sums[k, e] += weight * values[g, r, e]
            sums[k, len(dims) + e] += weight


@njit(fastmath=FASTMATH | {"reassoc"})
@no_type_check
def _refresh(columns, weights, point, nearest, g, start, stop, dims):
    """Lower a chunk's distances to the nearest drawn point where the new one is nearer; return the distances' sum."""
    total = 0.0
    for i in range(start, stop):
        distance = np.float32(0)
        for e in range(len(dims)):
            difference = columns[g, e, np.uintp(i)] - point[e]
            distance += weights[g, e] * (difference * difference)
        distance = _minimum(nearest[g, np.uintp(i)], distance)
        nearest[g, np.uintp(i)] = distance
        total += np.float64(distance)
    return total


@njit(error_model="numpy")
@no_type_check
def _draw(nearest, sums, uniform):
    """Find the point at which the running sum of the distances passes ``uniform`` times their total."""
    parts = sums.shape[1]
    flat = sums.ravel()
    total = 0.0
    for chunk in range(len(flat)):
        total += flat[chunk]
    # Where rounding ends the running sum before it passes, the last point at a distance is taken; where there is no
    # such point, the first of all.
    wanted, running, before, chosen = uniform * total, 0.0, 0.0, -1
    for chunk in range(len(flat)):
        if flat[chunk] > 0:
            chosen, before = chunk, running
            running += flat[chunk]
            if running > wanted:
                break
    if chosen < 0:
        return 0
    g, part = divmod(chosen, parts)
    running, point = before, 0
    for r in range(part * CHUNK, min(part * CHUNK + CHUNK, nearest.shape[1])):
        if nearest[g, r] > 0:
            point = r
            running += nearest[g, r]
            if running > wanted:
                break
    return g * nearest.shape[1] + point


@njit(nogil=True, cache=True, error_model="numpy")
@no_type_check
def _plus_plus(columns, weights, uniforms, dims, nearest, sums, drawn):
    groups, _, rows = columns.shape
    parts = sums.shape[1]
    point = np.empty(len(dims), np.float32)
    drawn[0] = min(np.int64(uniforms[0] * (groups * rows)), groups * rows - 1)
    for pick in range(1, len(drawn)):
        g, r = divmod(drawn[pick - 1], rows)
        for e in range(len(dims)):
            point[e] = columns[g, e, r]
        for h in range(groups):
            for part in range(parts):
                start, stop = part * CHUNK, min(part * CHUNK + CHUNK, rows)
                sums[h, part] = _refresh(columns, weights, point, nearest, h, start, stop, dims)
        drawn[pick] = _draw(nearest, sums, uniforms[pick])


def _task_edges(values: Float[Tensor, "groups rows d"]) -> list[int]:
    return task_edges(values.shape[0] * -(-values.shape[1] // ROWS))


def assign(
    values: Float[Tensor, "groups rows d"], weights: Float[Tensor, "groups d"], codewords: Float[Tensor, "K d"]
) -> tuple[Integer[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
    """See :func:`nowag_exp.ops.kernels.kmeans_reference.assign`."""
    assignments = torch.empty(values.shape[:2], dtype=torch.int32)
    distances = torch.empty(values.shape[:2])
    arguments = (
        values.numpy(),
        weights.numpy(),
        _codebook(codewords),
        len(codewords),
        (0,) * values.shape[2],
        assignments.numpy(),
        distances.numpy(),
    )
    in_threads(lambda _, tasks: _assign(tasks, *arguments), _task_edges(values))
    return assignments, distances


def reassign(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    codewords: Float[Tensor, "K d"],
    old_codewords: Float[Tensor, "K d"],
    old_assignments: Integer[Tensor, "groups rows"],
) -> tuple[Integer[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
    """Do what :func:`assign` does, given the assignments to the codewords as they were, with less work and exactly.

    A point that is no farther from its codeword than before is still no farther from it than from any codeword that
    stayed, so it is compared with those that moved alone. The scores of codewords that stayed are the same to the last
    bit, so this takes no slack for rounding. With 4096 codewords of 6, most stay after some 20 steps of SmolLM2's
    gate_proj: its 77 steps took 3.2 s of processor time instead of 6.0. With 256 of 4 nearly all move in every step.

    The bounds of Hamerly (2010), which carry over all steps, were measured there and do not pay: over the first 20
    steps they spare 6 % of the points with 4096 codewords of 6 and 14 % with 256 of 4, since one codeword that moves
    far loosens every bound; over 100 steps with 256 of 4 they spare 51 %, about what it costs to find the second
    nearest codewords and keep the bounds, where a full search takes 0.04 µs for a point.
    """
    moved = (codewords != old_codewords).any(dim=1).nonzero()[:, 0]
    if len(moved) > MOSTLY * len(codewords):
        return assign(values, weights, codewords)
    assignments = torch.from_numpy(old_assignments.numpy().copy())
    distances = torch.empty(values.shape[:2])
    arguments = (
        values.numpy(),
        weights.numpy(),
        _codebook(codewords),
        len(codewords),
        _codebook(old_codewords),
        moved.numpy(),
        (0,) * values.shape[2],
        assignments.numpy(),
        distances.numpy(),
    )
    in_threads(lambda _, tasks: _reassign(tasks, *arguments), _task_edges(values))
    return assignments, distances


def _codebook(codewords: Float[Tensor, "K d"]) -> Float[np.ndarray, "d width"]:
    """Put the codewords into columns, as many as whole vectors hold."""
    n_codewords, d = codewords.shape
    codebook = np.zeros((d, (n_codewords + LANES - 1) // LANES * LANES), np.float32)
    codebook[:, :n_codewords] = codewords.numpy().T
    return codebook


def update(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    assignments: Integer[Tensor, "groups rows"],
    codewords: Float[Tensor, "K d"],
) -> tuple[Float[Tensor, "K d"], Integer[Tensor, " K"]]:
    """See :func:`nowag_exp.ops.kernels.kmeans_reference.update`."""
    n_codewords, d = codewords.shape
    # Each part has sums for all codewords: with more parts than this, zeroing and adding them costs more than it saves.
    parts = min(max(assignments.numel() // (16 * n_codewords), 1), 16)
    sums = np.zeros((parts, n_codewords, 2 * d))
    counts = np.zeros((parts, n_codewords), np.int64)
    arguments = (values.numpy(), weights.numpy(), assignments.numpy(), (0,) * d)
    edges = [assignments.numel() * part // parts for part in range(parts + 1)]
    in_threads(lambda part, points: _sum_points(points, *arguments, sums[part], counts[part]), edges)
    weighted, total = np.split(sums.sum(axis=0), 2, axis=1)
    moved = np.divide(weighted, total, out=codewords.numpy().astype(np.float64), where=total > 0)
    return torch.from_numpy(moved.astype(np.float32)), torch.from_numpy(counts.sum(axis=0))


def plus_plus(
    values: Float[Tensor, "groups rows d"], weights: Float[Tensor, "groups d"], uniforms: Float[Tensor, " K"]
) -> Integer[Tensor, " K"]:
    """See :func:`nowag_exp.ops.kernels.kmeans_reference.plus_plus`; one pass over the points for each that is drawn."""
    groups, rows, d = values.shape
    columns = np.ascontiguousarray(values.numpy().transpose(0, 2, 1))
    nearest = np.full((groups, rows), FAR)
    sums = np.empty((groups, (rows + CHUNK - 1) // CHUNK))
    drawn = np.empty(len(uniforms), np.int64)
    _plus_plus(columns, weights.numpy(), uniforms.numpy(), (0,) * d, nearest, sums, drawn)
    return torch.from_numpy(drawn)
