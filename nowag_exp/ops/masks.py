"""Which weights to keep: exact counts, by selection instead of sorting, with a defined winner for ties.

A group is what competes: the whole matrix (unstructured), one output row (Wanda), or M consecutive inputs (N:M). Within
a group the ``keep`` highest scores stay; of equal scores the ones that come first stay. Scores must be finite.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

SMALL_GROUP = 16
"""Groups up to this size are ranked by comparing all pairs: a few passes over memory beat many tiny selections."""


def keep_top(scores: Float[Tensor, "groups n"], keep: int) -> Bool[Tensor, "groups n"]:
    """Mask of the ``keep`` highest scores of each group; ties go to the lower index.

    Raises:
        ValueError: if ``keep`` is not in ``[0, n]``.
    """
    n = scores.shape[1]
    if not 0 <= keep <= n:
        raise ValueError(f"cannot keep {keep} of {n} scores")
    if keep == 0 or keep == n:
        return torch.full_like(scores, keep == n, dtype=torch.bool)
    if n <= SMALL_GROUP:
        return _keep_top_by_rank(scores, keep)
    return _keep_top_by_threshold(scores, keep)


def unstructured_mask(scores: Float[Tensor, "d_out d_in"], sparsity: float) -> Bool[Tensor, "d_out d_in"]:
    """Keep the highest scores of the whole matrix; ``int(d_out · d_in · sparsity)`` weights are removed."""
    keep = scores.numel() - int(scores.numel() * sparsity)
    return keep_top(scores.reshape(1, -1), keep).reshape(scores.shape)


def rowwise_mask(scores: Float[Tensor, "d_out d_in"], sparsity: float) -> Bool[Tensor, "d_out d_in"]:
    """Keep the highest scores of each output row; ``int(d_in · sparsity)`` weights of each row are removed."""
    width = scores.shape[1]
    return keep_top(scores, width - int(width * sparsity))


def n_of_m_mask(scores: Float[Tensor, "d_out d_in"], n: int, m: int) -> Bool[Tensor, "d_out d_in"]:
    """Keep the ``n`` highest scores of each ``m`` consecutive inputs.

    Raises:
        ValueError: if ``m`` does not divide the input width.
    """
    if scores.shape[1] % m:
        raise ValueError(f"{m} does not divide the input width {scores.shape[1]}")
    return keep_top(scores.reshape(-1, m), n).reshape(scores.shape)


def _keep_top_by_rank(scores: Float[Tensor, "groups n"], keep: int) -> Bool[Tensor, "groups n"]:
    """Keep position ``i`` if fewer than ``keep`` others beat it; each pair of positions is compared once."""
    columns = [column.contiguous() for column in scores.unbind(dim=1)]
    beaten_by = [torch.zeros_like(column, dtype=torch.int8) for column in columns]
    for first in range(len(columns)):
        for second in range(first + 1, len(columns)):
            first_wins = columns[first] >= columns[second]
            beaten_by[second] += first_wins
            beaten_by[first] += ~first_wins
    return torch.stack([count < keep for count in beaten_by], dim=1)


def _keep_top_by_threshold(scores: Float[Tensor, "groups n"], keep: int) -> Bool[Tensor, "groups n"]:
    """Find each group's ``keep``-th highest score in linear time, then compare."""
    threshold = _kth_highest(scores, keep)
    mask = scores >= threshold
    if int(mask.sum()) == keep * len(scores):
        return mask
    # Some group has several scores equal to its threshold: of those, the first ones fill what is left.
    above = scores > threshold
    tied = mask & ~above
    places = keep - above.sum(dim=1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=1) <= places))


def _kth_highest(scores: Float[Tensor, "groups n"], k: int) -> Float[Tensor, "groups 1"]:
    position = scores.shape[1] - k
    if scores.is_cuda:
        return scores.kthvalue(position + 1, dim=1, keepdim=True).values
    # numpy's introselect is vectorised (AVX-512, AVX2, NEON); torch.kthvalue on the CPU is not.
    partitioned = np.partition(scores.numpy(), position, axis=1)
    return torch.from_numpy(np.ascontiguousarray(partitioned[:, position : position + 1]))
