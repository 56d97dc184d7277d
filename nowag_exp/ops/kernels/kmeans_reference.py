"""The k-means kernels in plain torch: what the compiled ones are tested against, and what runs where they cannot."""

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

SCORES_AT_ONCE = 1 << 24
"""Scores held at a time, 64 MB in fp32."""

CHUNK = 1024
"""Points under one partial sum of the D² sampling."""


def assign(
    values: Float[Tensor, "groups rows d"], weights: Float[Tensor, "groups d"], codewords: Float[Tensor, "K d"]
) -> tuple[Integer[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
    """Find each point's nearest codeword, of equally near ones the first, and its distance.

    ``argmin_k Σ_e w_ge c_ke² - 2 w_ge x_e c_ke``, as matrix products.
    """
    flat = values.flatten(0, 1)
    group = torch.arange(len(values), device=values.device).repeat_interleave(values.shape[1])
    norms = weights @ codewords.square().T if len(weights) * len(codewords) <= SCORES_AT_ONCE else None
    nearest = torch.empty(len(flat), dtype=torch.int32, device=values.device)
    step = max(1, SCORES_AT_ONCE // len(codewords))
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        metric = weights[group[part]]
        offset = norms[group[part]] if norms is not None else metric @ codewords.square().T
        nearest[part] = torch.addmm(offset, metric * flat[part], codewords.T, alpha=-2).argmin(dim=1)
    assignments = nearest.view(values.shape[:2])
    return assignments, own_distances(values, weights, codewords, assignments)


def reassign(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    codewords: Float[Tensor, "K d"],
    old_codewords: Float[Tensor, "K d"],
    old_assignments: Integer[Tensor, "groups rows"],
) -> tuple[Integer[Tensor, "groups rows"], Float[Tensor, "groups rows"]]:
    """Assign again after codewords moved; what was known of the old ones is not made use of."""
    return assign(values, weights, codewords)


def own_distances(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    codewords: Float[Tensor, "K d"],
    assignments: Integer[Tensor, "groups rows"],
) -> Float[Tensor, "groups rows"]:
    """Compute each point's distance to its codeword: ``Σ_e w_ge (x_e - c_e)²``."""
    return ((values - codewords[assignments.long()]).square_().mul_(weights[:, None])).sum(dim=2)


def update(
    values: Float[Tensor, "groups rows d"],
    weights: Float[Tensor, "groups d"],
    assignments: Integer[Tensor, "groups rows"],
    codewords: Float[Tensor, "K d"],
) -> tuple[Float[Tensor, "K d"], Integer[Tensor, " K"]]:
    """Move each codeword to ``Σ_i w_ge x_ie / Σ_i w_ge`` over its points, and count them.

    A coordinate without any weight stays. The points are sorted by codeword, so that sums follow their order.
    """
    index = assignments.flatten().long()
    counts = torch.bincount(index, minlength=len(codewords))
    order = torch.argsort(index, stable=True)
    metric = weights.double()[:, None].expand_as(values).flatten(0, 1)
    terms = torch.cat([metric * values.flatten(0, 1).double(), metric], dim=1)[order]
    sums = torch.segment_reduce(terms, "sum", lengths=counts, axis=0, initial=0)
    weighted, total = sums.chunk(2, dim=1)
    return torch.where(total > 0, weighted / total, codewords.double()).float(), counts


def plus_plus(
    values: Float[Tensor, "groups rows d"], weights: Float[Tensor, "groups d"], uniforms: Float[Tensor, " K"]
) -> Integer[Tensor, " K"]:
    """Draw points by D² sampling: each with probability proportional to its distance to those drawn before it.

    The first is drawn uniformly. Once every point is at distance zero, the draws that remain take the first point.
    """
    n = values.shape[0] * values.shape[1]
    drawn = [min(int(uniforms[0] * n), n - 1)]
    nearest = torch.full((-(-n // CHUNK) * CHUNK,), 0.0, device=values.device)
    nearest[:n] = torch.inf
    for uniform in uniforms[1:].tolist():
        point = values.flatten(0, 1)[drawn[-1]]
        distances = ((values - point).square_().mul_(weights[:, None])).sum(dim=2).flatten()
        torch.minimum(nearest[:n], distances, out=nearest[:n])
        drawn.append(draw(nearest.view(-1, CHUNK), nearest.view(-1, CHUNK).sum(dim=1, dtype=torch.float64), uniform))
    return torch.tensor(drawn)


def draw(nearest: Float[Tensor, "chunks n"], sums: Float[Tensor, " chunks"], uniform: float) -> int:
    """Find the point at which the running sum of the distances passes ``uniform`` times their total.

    The running sums are taken on the CPU: those of CUDA are not reproducible.
    """
    running = np.cumsum(sums.cpu().numpy())
    wanted = uniform * running[-1]
    chunk = _first_beyond(running, wanted)
    within = np.cumsum(nearest[chunk].cpu().numpy(), dtype=np.float64)
    return chunk * nearest.shape[1] + _first_beyond(within, wanted - (running[chunk - 1] if chunk else 0.0))


def _first_beyond(running: Float[np.ndarray, " n"], wanted: float) -> int:
    """Find where a running sum passes ``wanted``; if rounding ends it before, where it reaches its end."""
    return int(np.searchsorted(running, min(wanted, np.nextafter(running[-1], -np.inf)), side="right"))
