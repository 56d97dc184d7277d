"""Which weights to keep: exact counts, by selection instead of sorting, with a defined winner for ties.

A group is what competes: the whole matrix (unstructured), one output row (Wanda), or M consecutive inputs (N:M). Within
a group the ``keep`` highest scores stay; of equal scores the ones that come first stay. Scores must be finite.

Ties are counted, since which of equal weights goes is a choice that no paper makes: on weights that lie on a coarse
grid (dequantized ones, say) another choice gives another perplexity.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nowag_exp.ops.kernels.choice import kernels_for

SMALL_GROUP = 16
"""Groups up to this size are ranked by comparing all pairs: a few passes over memory beat many tiny selections."""


class Selection(NamedTuple):
    """Which weights stay.

    Attributes:
        mask: true where a weight is kept; shaped like the scores.
        n_tied: weights removed though one of equal score is kept in their group.
    """

    mask: Bool[Tensor, "rows columns"]
    n_tied: int


def keep_top(scores: Float[Tensor, "groups n"], keep: int) -> Selection:
    """Select the ``keep`` highest scores of each group; of equal ones the first.

    Raises:
        ValueError: if ``keep`` is not in ``[0, n]``.
    """
    n = scores.shape[1]
    if not 0 <= keep <= n:
        raise ValueError(f"cannot keep {keep} of {n} scores")
    if keep == 0 or keep == n:
        return Selection(torch.full_like(scores, keep == n, dtype=torch.bool), 0)
    if n <= SMALL_GROUP:
        return _keep_top_by_rank(scores, keep)
    return _keep_top_by_threshold(scores, keep)


def unstructured_mask(scores: Float[Tensor, "d_out d_in"], sparsity: float) -> Selection:
    """Keep the highest scores of the whole matrix; ``int(d_out · d_in · sparsity)`` weights are removed."""
    keep = scores.numel() - int(scores.numel() * sparsity)
    return _reshaped(keep_top(scores.reshape(1, -1), keep), scores)


def rowwise_mask(scores: Float[Tensor, "d_out d_in"], sparsity: float) -> Selection:
    """Keep the highest scores of each output row; ``int(d_in · sparsity)`` weights of each row are removed."""
    width = scores.shape[1]
    return keep_top(scores, width - int(width * sparsity))


def n_of_m_mask(scores: Float[Tensor, "d_out d_in"], n: int, m: int) -> Selection:
    """Keep the ``n`` highest scores of each ``m`` consecutive inputs.

    Raises:
        ValueError: if ``m`` does not divide the input width.
    """
    if scores.shape[1] % m:
        raise ValueError(f"{m} does not divide the input width {scores.shape[1]}")
    return _reshaped(keep_top(scores.reshape(-1, m), n), scores)


def _reshaped(selection: Selection, like: Float[Tensor, "d_out d_in"]) -> Selection:
    return selection._replace(mask=selection.mask.reshape(like.shape))


def _keep_top_by_rank(scores: Float[Tensor, "groups n"], keep: int) -> Selection:
    """Keep position ``i`` if fewer than ``keep`` others beat it; each pair of positions is compared once."""
    columns = [column.contiguous() for column in scores.unbind(dim=1)]
    # Every later position beats this one until the comparison shows otherwise.
    beaten_by = [torch.full_like(columns[0], len(columns) - 1 - i, dtype=torch.int8) for i in range(len(columns))]
    has_equal = torch.zeros_like(columns[0], dtype=torch.bool)
    for first in range(len(columns)):
        for second in range(first + 1, len(columns)):
            first_wins = (columns[first] >= columns[second]).view(torch.int8)
            beaten_by[first] -= first_wins
            beaten_by[second] += first_wins
            has_equal |= columns[first] == columns[second]
    mask = torch.stack([count < keep for count in beaten_by], dim=1)
    return Selection(mask, _count_tied(scores[has_equal], mask[has_equal]))


def _count_tied(scores: Float[Tensor, "groups n"], mask: Bool[Tensor, "groups n"]) -> int:
    lowest_kept = scores.masked_fill(~mask, torch.inf).amin(dim=1, keepdim=True)
    return int(torch.count_nonzero((scores == lowest_kept) & ~mask))


def _keep_top_by_threshold(scores: Float[Tensor, "groups n"], keep: int) -> Selection:
    """Find each group's ``keep``-th highest score in linear time, then compare."""
    threshold = kernels_for("selection", scores.device).kth_highest(scores, keep)
    mask = scores >= threshold
    n_tied = int(torch.count_nonzero(mask)) - keep * len(scores)
    if n_tied == 0:
        return Selection(mask, 0)
    # Some group has more scores equal to its threshold than places for them: the first ones get the places.
    above = scores > threshold
    tied = mask & ~above
    places = keep - above.sum(dim=1, keepdim=True)
    return Selection(above | (tied & (tied.cumsum(dim=1) <= places)), n_tied)
