"""The k-means kernels for CUDA, in Triton. No sum depends on the order in which programs run.

They are compiled from their source, which the tests' shape checks must not wrap: hence ``no_type_check``.

None was timed: no GPU was at hand. What is expected of an H100 (132 multiprocessors of 4·32 lanes at 1.755 GHz, 3.35
TB/s) for all linears of Llama-2-7B with 4096 codewords of 6, that is 1.08e9 points and 4.4e12 scores a step: 123 s for
100 steps if an instruction is issued in every cycle, as many as :func:`_search` has machine code for (the floor of
the multiply-adds alone is 89 s); 42 s for the start, which reads 32 bytes a point for each of 4096 picks; some 10 s for
sorting the points by codeword in every step.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Integer
from torch import Tensor

from nowag_exp.ops.kernels.kmeans_reference import CHUNK

POINTS = 512
"""Points of a group that one program searches for: 8 in each of 64 threads, so that a codeword is read once for 8."""

BLOCK = 16
"""Codewords whose minimum is taken before it is compared with the best so far."""

SETTLED = 64
"""Points of a group that one program settles."""

NORMS_AT_ONCE = 1 << 24
"""Norms of codewords held at a time, one for each group: 64 MB."""

MEMBERS = 128
"""Points that a program adds to its codeword at a time."""

SUMS = 4096
"""Chunks whose sums are added up at a time when a point is drawn."""


@triton.jit
@no_type_check
def _search(
    values,
    weights,
    codebook,
    norms,
    blocks,
    rows,
    n_blocks,
    d: tl.constexpr,
    width: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
):
    """Find the block of codewords with each point's lowest score.

    A thread has its points in registers and goes over the codewords, which are scalars to it: nothing is exchanged
    between threads. A score takes ``d`` multiply-adds and a minimum; where the minimum was is noted once for a block,
    and the loads of a codeword serve 8 points. Codewords are ``width`` apart, a power of two: no address is computed.
    With ``d = 6`` the machine code for sm_90 has 8.3 instructions a score, and all values stay in its 128 registers.
    """
    tiles = tl.cdiv(rows, tile)
    group = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.program_id(0) % tiles * tile + tl.arange(0, tile)
    inside = row < rows
    at = values + (group * rows + row) * d
    x = ()
    for e in tl.static_range(d):
        x = x + (-2.0 * (tl.load(weights + group * d + e) * tl.load(at + e, mask=inside, other=0.0)),)  # noqa: RUF005
    best = tl.full((tile,), float("inf"), tl.float32)
    chosen = tl.zeros((tile,), tl.int32)
    norm = norms + group * (n_blocks * block)
    for b in range(n_blocks):
        low = tl.full((tile,), float("inf"), tl.float32)
        for u in tl.static_range(block):
            k = b * block + u
            score = tl.full((tile,), 0.0, tl.float32) + tl.load(norm + k)
            for e in tl.static_range(d):
                score += x[e] * tl.load(codebook + k * width + e)
            low = tl.minimum(low, score)
        chosen = tl.where(low < best, b, chosen)
        best = tl.minimum(low, best)
    tl.store(blocks + group * rows + row, chosen, mask=inside)


@triton.jit
@no_type_check
def _settle(
    values,
    weights,
    codebook,
    norms,
    blocks,
    distances,
    rows,
    n_codewords,
    n_blocks,
    d: tl.constexpr,
    width: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
):
    """Find the nearest codeword in each point's block, put it in the block's place, and compute the distance."""
    tiles = tl.cdiv(rows, tile)
    group = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.program_id(0) % tiles * tile + tl.arange(0, tile)
    inside = row < rows
    at = values + (group * rows + row) * d
    first = tl.load(blocks + group * rows + row, mask=inside, other=0) * block
    k = first[:, None] + tl.arange(0, block)[None, :]
    scores = tl.load(norms + group * (n_blocks * block) + k)
    for e in tl.static_range(d):
        x = -2.0 * (tl.load(weights + group * d + e) * tl.load(at + e, mask=inside, other=0.0))
        scores += x[:, None] * tl.load(codebook + k * width + e)
    # Where scores overflow none is the lowest: the result is worthless then, but must be a codeword.
    nearest = tl.minimum(first + tl.argmin(scores, axis=1, tie_break_left=True), n_codewords - 1)
    distance = tl.zeros((tile,), tl.float32)
    for e in tl.static_range(d):
        difference = tl.load(at + e, mask=inside, other=0.0) - tl.load(codebook + nearest * width + e)
        distance += tl.load(weights + group * d + e) * (difference * difference)
    tl.store(blocks + group * rows + row, nearest, mask=inside)
    tl.store(distances + group * rows + row, distance, mask=inside)


@triton.jit
@no_type_check
def _update(
    values, weights, members, ends, codewords, moved, rows, d: tl.constexpr, tile: tl.constexpr, padded_d: tl.constexpr
):
    """Average the points of one codeword, which stand next to each other in ``members``."""
    k = tl.program_id(0)
    start = tl.load(ends + k - 1, mask=k > 0, other=0)
    end = tl.load(ends + k)
    e = tl.arange(0, padded_d)
    weighted = tl.zeros((tile, padded_d), tl.float64)
    total = tl.zeros((tile, padded_d), tl.float64)
    for first in range(start, end, tile):
        i = first + tl.arange(0, tile)
        point = tl.load(members + i, mask=i < end, other=0)
        here = (i < end)[:, None] & (e < d)[None, :]
        w = tl.load(weights + (point // rows * d)[:, None] + e[None, :], mask=here, other=0.0).to(tl.float64)
        x = tl.load(values + (point * d)[:, None] + e[None, :], mask=here, other=0.0).to(tl.float64)
        weighted += w * x
        total += w
    mass = tl.sum(total, axis=0)
    old = tl.load(codewords + k * d + e, mask=e < d, other=0.0).to(tl.float64)
    mean = tl.sum(weighted, axis=0) / tl.where(mass > 0, mass, 1.0)
    tl.store(moved + k * d + e, tl.where(mass > 0, mean, old).to(tl.float32), mask=e < d)


@triton.jit(do_not_specialize=["pick"])
@no_type_check
def _refresh(columns, weights, drawn, pick, nearest, sums, rows, parts, d: tl.constexpr, chunk: tl.constexpr):
    """Lower a chunk's distances to the nearest drawn point where the one drawn last is nearer; sum them."""
    group = (tl.program_id(0) // parts).to(tl.int64)
    row = tl.program_id(0) % parts * chunk + tl.arange(0, chunk)
    last = tl.load(drawn + pick - 1)
    at = columns + group * (d * rows) + row
    last_at = columns + last // rows * (d * rows) + last % rows
    distance = tl.zeros((chunk,), tl.float32)
    for e in tl.static_range(d):
        difference = tl.load(at + e * rows, mask=row < rows, other=0.0) - tl.load(last_at + e * rows)
        distance += tl.load(weights + group * d + e) * (difference * difference)
    nearest_at = nearest + group * (parts * chunk) + row
    distance = tl.minimum(distance, tl.load(nearest_at))
    tl.store(nearest_at, distance)
    tl.store(sums + tl.program_id(0), tl.sum(distance.to(tl.float64), axis=0))


@triton.jit
@no_type_check
def _passing(amounts, i, running, wanted):
    """Find the number of the first amount after which the running sum is beyond ``wanted``.

    Where there is none, the last amount that is not zero; -1 where all are. Also the running sum before that amount,
    and whether the sum did pass.
    """
    up_to = running + tl.cumsum(amounts, axis=0)
    first = tl.min(tl.where((amounts > 0) & (up_to > wanted), i, 2147483647), axis=0)
    last = tl.max(tl.where(amounts > 0, i, -1), axis=0)
    passed = first <= last
    found = tl.where(passed, first, last)
    return found, tl.max(tl.where(i < found, up_to, running), axis=0), passed


@triton.jit(do_not_specialize=["pick"])
@no_type_check
def _draw(nearest, sums, uniforms, drawn, pick, n_chunks, rows, parts, chunk: tl.constexpr, tile: tl.constexpr):
    """Find the point at which the running sum of the distances passes a uniform number times their total.

    One program, and its result stays on the device, so that no pick waits for the one before to be read. Where rounding
    ends the running sum before it passes, the last point at a distance is taken; where there is none, the first of all.
    """
    total = tl.zeros((), tl.float64)
    for start in range(0, n_chunks, tile):
        i = start + tl.arange(0, tile)
        total += tl.sum(tl.load(sums + i, mask=i < n_chunks, other=0.0), axis=0)
    wanted = tl.load(uniforms + pick) * total
    running = tl.zeros((), tl.float64)
    before = running
    chosen = -1
    done = False
    for start in range(0, n_chunks, tile):
        i = start + tl.arange(0, tile)
        amounts = tl.load(sums + i, mask=i < n_chunks, other=0.0)
        found, before_found, passed = _passing(amounts, i, running, wanted)
        take = (found >= 0) & (not done)
        chosen = tl.where(take, found, chosen)
        before = tl.where(take, before_found, before)
        done = done | passed
        running += tl.sum(amounts, axis=0)
    part = tl.maximum(chosen, 0).to(tl.int64)
    i = tl.arange(0, chunk)
    within, _, _ = _passing(tl.load(nearest + part * chunk + i).to(tl.float64), i, before, wanted)
    point = part // parts * rows + part % parts * chunk + within
    tl.store(drawn + pick, tl.where(chosen < 0, 0, point))


def assign(
    values: Float[Tensor, "groups rows d"], weights: Float[Tensor, "groups d"], codewords: Float[Tensor, "K d"]
) -> tuple[Integer[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
    """See :func:`nowag_exp.ops.kernels.kmeans_reference.assign`."""
    groups, rows, d = values.shape
    n_blocks = triton.cdiv(len(codewords), BLOCK)
    width = triton.next_power_of_2(d)
    padded = torch.nn.functional.pad(codewords, (0, width - d, 0, n_blocks * BLOCK - len(codewords))).contiguous()
    assignments = torch.empty((groups, rows), dtype=torch.int32, device=values.device)
    distances = torch.empty((groups, rows), device=values.device)
    at_once = max(1, NORMS_AT_ONCE // len(padded))
    for some in (slice(start, start + at_once) for start in range(0, groups, at_once)):
        metric = weights[some]
        norms = metric.new_zeros(len(metric), len(padded))
        for weight, square in zip(metric.unbind(1), padded[:, :d].square().unbind(1), strict=True):
            norms.addcmul_(weight[:, None], square)
        norms[:, len(codewords) :] = torch.inf
        held = (values[some], metric, padded, norms, assignments[some])
        _search[(len(metric) * triton.cdiv(rows, POINTS),)](
            *held, rows, n_blocks, d=d, width=width, tile=POINTS, block=BLOCK, num_warps=2
        )
        _settle[(len(metric) * triton.cdiv(rows, SETTLED),)](
            *held, distances[some], rows, len(codewords), n_blocks, d=d, width=width, tile=SETTLED, block=BLOCK
        )
    return assignments, distances


def reassign(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    codewords: Float[Tensor, "K d"],
    old_codewords: Float[Tensor, "K d"],
    old_assignments: Integer[Tensor, "groups rows"],
) -> tuple[Integer[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
    """See :func:`nowag_exp.ops.kernels.kmeans_reference.reassign`."""
    return assign(values, weights, codewords)


def update(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    assignments: Integer[Tensor, "groups rows"],
    codewords: Float[Tensor, "K d"],
) -> tuple[Float[Tensor, "K d"], Integer[Tensor, " K"]]:
    """See :func:`nowag_exp.ops.kernels.kmeans_reference.update`; a program for each codeword, sums in fp64."""
    n_codewords, d = codewords.shape
    # 16 bits take half the passes of a radix sort.
    number = torch.int16 if n_codewords <= 1 << 15 else torch.int32
    index, members = assignments.flatten().to(number).sort(stable=True)
    ends = torch.searchsorted(index, torch.arange(n_codewords, dtype=number, device=index.device), right=True)
    moved = torch.empty_like(codewords, memory_format=torch.contiguous_format)
    _update[(n_codewords,)](
        *(values, weights, members, ends, codewords.contiguous(), moved, values.shape[1]),
        d=d,
        tile=MEMBERS,
        padded_d=triton.next_power_of_2(d),
    )
    return moved, ends.diff(prepend=ends.new_zeros(1))


def plus_plus(
    values: Float[Tensor, "groups rows d"], weights: Float[Tensor, "groups d"], uniforms: Float[Tensor, " K"]
) -> Integer[Tensor, " K"]:
    """See :func:`nowag_exp.ops.kernels.kmeans_reference.plus_plus`.

    The sums are added up in another order than there, in fp64: another point is drawn only where a uniform number lies
    within their rounding, some 1e-16, of the border between two points. Two launches for each pick, nothing is waited
    for; the points are read once for each pick, which for matrices of 5 million points is more than a launch takes.
    """
    groups, rows, d = values.shape
    parts = triton.cdiv(rows, CHUNK)
    n_chunks = groups * parts
    columns = values.transpose(1, 2).contiguous()
    # What fills the last chunk of a group is at distance zero: it is never drawn.
    nearest = torch.zeros(groups, parts * CHUNK, device=values.device)
    nearest[:, :rows] = torch.inf
    sums = torch.empty(n_chunks, dtype=torch.float64, device=values.device)
    first = min(int(uniforms[0] * (groups * rows)), groups * rows - 1)
    drawn = torch.full((len(uniforms),), first, device=values.device)
    uniforms = uniforms.to(values.device)
    for pick in range(1, len(uniforms)):
        _refresh[(n_chunks,)](columns, weights, drawn, pick, nearest, sums, rows, parts, d=d, chunk=CHUNK)
        _draw[(1,)](nearest, sums, uniforms, drawn, pick, n_chunks, rows, parts, chunk=CHUNK, tile=SUMS, num_warps=8)
    return drawn
