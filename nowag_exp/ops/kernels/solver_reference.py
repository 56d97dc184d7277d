"""The column loop of SparseGPT and GPTQ inside one segment, in plain torch; what the compiled kernels must equal."""

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from nowag_exp.ops.masks import keep_top


def run_segment(
    weights: Float[Tensor, "rows width"],
    factor: Float[Tensor, "width width"],
    mask: Bool[Tensor, "rows width"],
    n_of_m: tuple[int, int] | None,
    scales: Float[Tensor, "rows groups"],
    zeros: UInt8[Tensor, "rows groups"],
    group: Int64[Tensor, " width"],
    top: int,
) -> Int64[Tensor, " rows"]:
    """Compress column after column; each error moves the columns after it, within the segment.

    For each column ``j``: ``q_j`` is ``w_j`` rounded on its grid, and zero where the mask is false;
    ``e = (w_j - q_j) / U_jj``; ``w_k ← w_k - e U_jk`` for ``k > j``. Rows have nothing to do with each other.

    Args:
        weights: replaced by the ``q_j``.
        factor: ``U`` of these columns, upper triangular.
        mask: true where a weight is kept. With ``n_of_m``, filled in.
        n_of_m: when the loop reaches the first of ``m`` columns, the ``n`` of them with the highest ``w² / U_jj²`` are
            kept; ``m`` divides the segment. They are compared as ``|w| / U_jj``, which does not underflow.
        scales: no groups: weights are not rounded.
        zeros: zero points of the groups.
        group: which of the groups each column belongs to.
        top: the highest code.

    Returns:
        For each row, how many weights ``n_of_m`` removed though one of equal score in their group is kept.
    """
    diagonal = factor.diagonal()
    n_tied = torch.zeros(len(weights), dtype=torch.int64, device=weights.device)
    for j in range(weights.shape[1]):
        if n_of_m and j % n_of_m[1] == 0:
            n, m = n_of_m
            scores = weights[:, j : j + m].abs() / diagonal[j : j + m]
            kept = keep_top(scores, n).mask
            lowest_kept = scores.masked_fill(~kept, torch.inf).amin(dim=1, keepdim=True)
            n_tied += ((scores == lowest_kept) & ~kept).sum(dim=1)
            mask[:, j : j + m] = kept
        column = weights[:, j].clone()
        if scales.shape[1]:
            scale, zero = scales[:, group[j]], zeros[:, group[j]].float()
            weights[:, j] = (((column / scale).round() + zero).clamp(0, top) - zero) * scale
        weights[:, j].masked_fill_(~mask[:, j], 0.0)
        error = (column - weights[:, j]) / diagonal[j]
        weights[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    return n_tied
