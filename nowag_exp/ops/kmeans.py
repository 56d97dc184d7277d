"""Weighted k-means for vector quantization (NoWag-VQ, arXiv 2504.14569): one codebook, a metric for each column group.

A weight matrix is split along its inputs into groups of ``d`` columns; a point is the part of one row in one group.
The points of group ``g`` share the metric ``‖x - c‖²_g = Σ_e w_ge (x_e - c_e)²``, where ``w`` comes from the diagonal
of the Hessian. The codewords are to minimise ``Σ_g Σ_i min_k ‖x_gi - c_k‖²_g``.

A Lloyd step computes ``groups · rows · K`` scores of ``d`` multiply-adds each and keeps none of them: 0.03 s for a
1536×576 matrix and 4096 codewords of 6, on 2 cores with AVX-512.
"""

from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from nowag_exp.ops.kernels.choice import kernels_for
from nowag_exp.ops.kernels.kmeans_reference import own_distances

Init = Literal["kmeans++", "random"]

CANDIDATES = 4
"""Badly served points looked at for each codeword without a point: some are equal to each other."""


class Clustering(NamedTuple):
    """A codebook and who uses what.

    Attributes:
        codewords: fp32.
        assignments: the nearest codeword of each point, int32; of equally near ones the first.
        loss: the objective at these codewords and assignments, summed in fp64.
        n_steps: Lloyd steps taken by the restart that was kept.
        n_reseeded: codewords that lost all points and were moved to a badly served point, in the restart that was kept.
        n_unused: codewords without a point at the end; there are some if fewer distinct points exist than codewords.
    """

    codewords: Float[Tensor, "K d"]
    assignments: Integer[Tensor, "groups rows"]
    loss: float
    n_steps: int
    n_reseeded: int
    n_unused: int


def subvectors(weight: Float[Tensor, "d_out d_in"], d: int) -> Float[Tensor, "groups d_out d"]:
    """Split the inputs into groups of ``d``, contiguous; zeros fill the last group where ``d`` does not divide."""
    padded = F.pad(weight, (0, -weight.shape[1] % d))
    return padded.reshape(len(weight), -1, d).transpose(0, 1).contiguous()


def subvector_weights(importance: Float[Tensor, " d_in"], d: int) -> Float[Tensor, "groups d"]:
    """Split the importances as :func:`subvectors` splits the inputs; what fills the last group weighs nothing."""
    return F.pad(importance, (0, -len(importance) % d)).reshape(-1, d)


def assign(
    values: Float[Tensor, "groups rows d"], weights: Float[Tensor, "groups d"], codewords: Float[Tensor, "K d"]
) -> tuple[Integer[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
    """Find the nearest codeword of each point, and its distance ``Σ_e w_ge (x_e - c_e)²``.

    Codewords are compared by ``Σ_e w_ge c_ke² - 2 w_ge x_e c_ke`` in fp32; of equal ones the first is taken.

    Returns:
        assignments, int32, and distances, fp32.
    """
    kernels = kernels_for("kmeans", values.device)
    return kernels.assign(values.float().contiguous(), weights.float().contiguous(), codewords.float())


def kmeans(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    n_codewords: int,
    *,
    init: Init,
    restarts: int,
    iterations: int,
    tolerance: float,
    generator: np.random.Generator,
) -> Clustering:
    """Minimise the weighted squared error by Lloyd's algorithm from several starts; keep the lowest.

    The result depends on the arguments and the state of ``generator``, not on the number of threads.

    Args:
        values: the points, finite.
        weights: the metric of each group, finite and not negative.
        n_codewords: size of the codebook.
        init: D² sampling (Arthur and Vassilvitskii, 2007) in the weighted metric, or distinct random points.
        restarts: starts tried.
        iterations: Lloyd steps at most; fewer are taken once no assignment changes.
        tolerance: stop after a step that lowers the loss by less than this part of it.
        generator: draws the starts.

    Raises:
        ValueError: if there is nothing to do it with, or a value that has no distance.
    """
    if min(n_codewords, restarts) < 1 or iterations < 0 or values.numel() == 0:
        raise ValueError(f"{n_codewords} codewords, {restarts} restarts, {iterations} steps, {values.numel()} values")
    values, weights = values.float().contiguous(), weights.float().contiguous()
    if not (values.isfinite().all() and weights.isfinite().all() and (weights >= 0).all()):
        raise ValueError("values must be finite, and weights finite and not negative")
    kernels = kernels_for("kmeans", values.device)
    best: Clustering | None = None
    for _ in range(restarts):
        start = values.flatten(0, 1)[_start(kernels, values, weights, n_codewords, init, generator).to(values.device)]
        found = _lloyd(kernels, values, weights, start, iterations, tolerance)
        if best is None or found.loss < best.loss:
            best = found
    assert best is not None
    return best


def _start(
    kernels: ModuleType,
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    n_codewords: int,
    init: Init,
    generator: np.random.Generator,
) -> Integer[Tensor, " K"]:
    """Choose the points at which the codewords start."""
    if init == "kmeans++":
        return kernels.plus_plus(values, weights, torch.from_numpy(generator.random(n_codewords)))
    n = values.shape[0] * values.shape[1]
    distinct = torch.from_numpy(generator.choice(n, min(n, n_codewords), replace=False))
    # More codewords than points: those beyond start at the first point, and are moved or stay unused.
    return F.pad(distinct, (0, n_codewords - len(distinct)), value=int(distinct[0]))


def _lloyd(
    kernels: ModuleType,
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    codewords: Float[Tensor, "K d"],
    iterations: int,
    tolerance: float,
) -> Clustering:
    assignments, distances = kernels.assign(values, weights, codewords)
    loss = _total(distances)
    n_steps = n_reseeded = 0
    while n_steps < iterations:
        moved, counts = kernels.update(values, weights, assignments, codewords)
        n_placed = _reseed(moved, counts == 0, values, weights, assignments)
        nearest, distances = kernels.reassign(values, weights, moved, codewords, assignments)
        new_loss = _total(distances)
        # A step cannot raise the loss; where only rounding is left to gain, its fp32 codewords can.
        if new_loss > loss:
            break
        stays = torch.equal(nearest, assignments) or new_loss == loss or loss - new_loss < tolerance * loss
        codewords, assignments, loss = moved, nearest, new_loss
        n_steps += 1
        n_reseeded += n_placed
        if stays:
            break
    n_unused = int((torch.bincount(assignments.flatten(), minlength=len(codewords)) == 0).sum())
    return Clustering(codewords, assignments, loss, n_steps, n_reseeded, n_unused)


def _total(distances: Float[Tensor, "groups rows"]) -> float:
    """Sum in fp64; on the CPU by numpy, whose order of summation does not depend on the number of threads."""
    if distances.device.type == "cpu":
        return float(distances.numpy().sum(dtype=np.float64))
    return float(distances.sum(dtype=torch.float64))


def _reseed(
    codewords: Float[Tensor, "K d"],
    empty: Bool[Tensor, " K"],
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    assignments: Integer[Tensor, "groups rows"],
) -> int:
    """Move codewords without a point, in place, each to another one of the worst served points; return how many moved.

    The other codewords stay where they are, so that no point gets worse.
    """
    homeless = empty.nonzero()[:, 0]
    if len(homeless) == 0:
        return 0
    distances = own_distances(values, weights, codewords, assignments).flatten()
    worst = torch.argsort(distances, descending=True, stable=True)[: CANDIDATES * len(homeless)]
    worst = worst[distances[worst] > 0]
    points = values.flatten(0, 1)[worst].cpu().numpy()
    distinct = list({point.tobytes(): point for point in points}.values())[: len(homeless)]
    if distinct:
        codewords[homeless[: len(distinct)]] = torch.from_numpy(np.stack(distinct)).to(codewords.device)
    return len(distinct)
