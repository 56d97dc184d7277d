"""Weighted k-means on a linear of SmolLM2, 4096 codewords of 6, against the plain formulations.

The floor of a step is ``d`` multiply-adds for each point and codeword; that of the start the same for each point and
pick, though a distance to a single point takes a subtraction more.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.timing import Comparison, Wanted, Work
from nowag_exp.ops.kernels import kmeans_numba
from nowag_exp.ops.kmeans import assign, subvector_weights, subvectors
from nowag_exp.ops.normalise import normalise

D, CODEWORDS = 6, 4096

PICKS_TIMED = (256, 512, 1024)
"""The plain start is timed at these picks alone; all 4096 would take hours."""


def plain_distances(values: Tensor, weights: Tensor, codewords: Tensor) -> Tensor:
    """All distances but for the part without the codewords, by two matrix products: groups, rows, codewords."""
    scores = (weights[:, None] * values).flatten(0, 1) @ codewords.T
    return scores.view(*values.shape[:2], -1).mul_(-2).add_((weights @ codewords.square().T)[:, None])


def plain_update(values: Tensor, weights: Tensor, assignments: Tensor, codewords: Tensor) -> Tensor:
    """One codeword after the other, each with a mask over all points."""
    flat, moved = values.flatten(0, 1), codewords.clone()
    metric = weights[:, None].expand_as(values).flatten(0, 1)
    for k in range(len(codewords)):
        mask = assignments.flatten() == k
        total = metric[mask].sum(dim=0)
        moved[k] = torch.where(total > 0, (metric[mask] * flat[mask]).sum(dim=0) / total, codewords[k])
    return moved


def plain_pick_seconds(values: Tensor, weights: Tensor, pick: int) -> float:
    """Time one pick of the plain start: the distances from all points to all ``pick`` codewords picked before."""
    picked = values.flatten(0, 1)[:pick]
    start = time.perf_counter()
    nearest = plain_distances(values, weights, picked).amin(dim=2)
    nearest.add_((weights[:, None] * values.square()).sum(dim=2)).clamp_(min=0).flatten().cumsum(0)
    return time.perf_counter() - start


def start_comparison(values: Tensor, weights: Tensor, floor: float) -> Comparison:
    """Our whole start against a sum of picks: the time of a pick is a line in its number, fitted to those timed."""
    uniforms = torch.from_numpy(np.random.default_rng(0).random(CODEWORDS))
    kmeans_numba.plus_plus(values, weights, uniforms[:2])
    began = time.perf_counter()
    kmeans_numba.plus_plus(values, weights, uniforms)
    ours = time.perf_counter() - began
    plain_pick_seconds(values, weights, PICKS_TIMED[0])
    slope, constant = np.polyfit(PICKS_TIMED, [plain_pick_seconds(values, weights, m) for m in PICKS_TIMED], 1)
    plain = float(slope * CODEWORDS * (CODEWORDS - 1) / 2 + constant * (CODEWORDS - 1))
    name = "k-means++ start; plain from 3 picks of 4096"
    return Comparison(name, ours, plain, (plain / ours,), floor, Wanted(ratio=100))


def run(bench: Bench) -> Iterator[Comparison]:
    weight = bench.model.module.get_submodule("model.layers.0.mlp.gate_proj").weight.data
    generator = torch.Generator().manual_seed(0)
    values = subvectors(normalise(weight).weight, D)
    weights = subvector_weights(torch.rand(weight.shape[1], generator=generator), D)
    codewords = values.flatten(0, 1)[torch.randperm(values.shape[0] * values.shape[1], generator=generator)[:CODEWORDS]]

    def ours() -> tuple[Tensor, Tensor]:
        assignments, _ = assign(values, weights, codewords)
        return assignments, kmeans_numba.update(values, weights, assignments, codewords)[0]

    def plain() -> tuple[Tensor, Tensor]:
        assignments = plain_distances(values, weights, codewords).argmin(dim=2)
        return assignments, plain_update(values, weights, assignments, codewords)

    (our_assignments, _), (plain_assignments, _) = ours(), plain()
    # Matrix products round otherwise than sums of six: where two codewords are equally near, the other may win.
    n_differ = int((our_assignments != plain_assignments).sum())
    assert n_differ <= 1e-4 * our_assignments.numel(), f"{n_differ} assignments differ"
    work = Work(scalar=2.0 * values.numel() * CODEWORDS, moved=values.nbytes)
    yield bench.compare("k-means step, 1536×576, d 6, 4096 codewords", ours, plain, work, Wanted(ratio=25), (2, 5))
    yield start_comparison(values, weights, work.floor(bench.rates))
