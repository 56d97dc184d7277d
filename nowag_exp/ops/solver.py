"""Prune or round column after column and let the columns that are left make up for it.

SparseGPT (arXiv 2301.00774, algorithm 1) prunes so, GPTQ (arXiv 2210.17323, algorithm 1) rounds so, and both can be
done in one pass (SparseGPT, section 3.5). The linears that read one activation share its Hessian: their rows are
stacked and solved together, while thresholds stay those of each linear.

Columns are worked on in segments: one matrix product brings a segment up to date with the columns before it, and a
compiled kernel compensates within it. With ``H = R Rᵀ``, ``R`` upper triangular, and ``D = W - Ŵ`` of the columns done,
the best values of the columns ``s`` to come are ``W_s + (D R_{done,s}) R_ss⁻¹``, which makes the columns ``s`` of
``D R`` zero in the objective ``tr(D H Dᵀ) = ‖D R‖²``. How long a segment is changes only the time; what does change the
result, the columns whose weights compete (:attr:`Pruning.block_size`), is counted apart from it.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from nowag_exp.ops.grids import Grid, Search, fit_grid, quantize
from nowag_exp.ops.kernels.choice import kernels_for
from nowag_exp.ops.masks import Selection, n_of_m_mask, unstructured_mask

SEGMENT = 128
"""Columns that are brought up to date at once, as in both papers."""


class Pruning(NamedTuple):
    """Which weights go.

    Attributes:
        sparsity: fraction removed of each block of columns; not read with ``n_of_m``.
        n_of_m: the ``n`` to keep of every ``m`` consecutive inputs; ``None`` if the weights of a block compete freely.
        block_size: columns whose weights compete, over all rows of a linear; not read with ``n_of_m``.
    """

    sparsity: float
    n_of_m: tuple[int, int] | None
    block_size: int


class Rounding(NamedTuple):
    """The grid that weights are rounded to; see :func:`nowag_exp.ops.grids.fit_grid`.

    Attributes:
        bits: of a code.
        group_size: inputs that share a scale; ``None`` for a whole row, whose grid is always that of the original row.
        symmetric: whether the zero point is fixed to the middle.
        search: how the range is chosen.
        static_groups: whether the grid of a group is that of the original weights, or of the weights as they are when
            the loop reaches the group.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    search: Search
    static_groups: bool


class Solution(NamedTuple):
    """A linear after the column loop.

    Attributes:
        values: the compressed weight, fp32; exactly ``dequantize(codes, grid)`` if it was rounded.
        mask: true where a weight is kept; ``None`` if nothing was to be pruned.
        codes: ``None`` if nothing was rounded; removed weights have the code of zero.
        grid: of the codes.
        n_tied: weights removed though one of equal score that they competed with is kept.
    """

    values: Float[Tensor, "d_out d_in"]
    mask: Bool[Tensor, "d_out d_in"] | None
    codes: UInt8[Tensor, "d_out d_in"] | None
    grid: Grid | None
    n_tied: int


def solve(
    weights: Mapping[str, Float[Tensor, "_ d_in"]],
    factor: Float[Tensor, "d_in d_in"],
    *,
    dead: Bool[Tensor, " d_in"],
    pruning: Pruning | None,
    rounding: Rounding | None,
    order: Int64[Tensor, " d_in"] | None,
    segment: int = SEGMENT,
) -> dict[str, Solution]:
    """Compress the linears that read one activation.

    For each column ``j``: ``q_j`` is ``w_j`` pruned and rounded, ``e = (w_j - q_j) / U_jj``, and ``w_k ← w_k - e U_jk``
    for all ``k > j``. Unstructured, the mask of a block of columns is chosen when the loop reaches it: the lowest
    ``w² / U_jj²`` of each linear in the block go (equation 5 of SparseGPT; compared as ``|w| / U_jj``).

    Args:
        weights: by name; they share their inputs. They are not changed.
        factor: ``R`` of :func:`nowag_exp.ops.factor.hessian_factor`; with ``order``, that of ``H[order][:, order]``.
        dead: inputs that are never active; their weights are set to zero before anything else.
        pruning: ``None`` to keep every weight.
        rounding: ``None`` to leave the values as they are.
        order: in which the columns are worked on; ``None`` for their own order.
        segment: columns that are brought up to date at once, at most 128; fewer where a mask or grid is due.

    Raises:
        ValueError: if a size does not divide the input width, or ``order`` is asked for together with something that is
            defined by the columns' own order.
    """
    d_in = len(dead)
    _check(d_in, pruning, rounding, order)
    current = torch.cat([weight.float() for weight in weights.values()]).masked_fill_(dead, 0.0)
    rows = _rows_of(weights)
    grid = _initial_grid(current, rounding)
    columns = torch.arange(d_in, device=current.device)
    if order is not None:
        columns, current = order, current[:, order]
    group = columns // (rounding.group_size if rounding and rounding.group_size else d_in)
    mask, n_tied = _run(current, list(rows.values()), factor, pruning, rounding, grid, group, min(segment, SEGMENT))
    if order is not None:
        original = torch.argsort(order)
        current, mask = current[:, original], mask[:, original]
    codes = quantize(current, grid, rounding.bits, rounding.group_size) if rounding else None
    return {
        name: Solution(
            values=current[of],
            mask=mask[of] if pruning else None,
            codes=None if codes is None else codes[of],
            grid=Grid(grid.scales[of], grid.zeros[of]) if rounding else None,
            n_tied=tied,
        )
        for (name, of), tied in zip(rows.items(), n_tied, strict=True)
    }


def _check(d_in: int, pruning: Pruning | None, rounding: Rounding | None, order: Int64[Tensor, " d_in"] | None) -> None:
    if pruning and pruning.n_of_m and order is not None:
        raise ValueError("N:M competes among neighbouring inputs, so the columns cannot be worked on in another order")
    if pruning and pruning.n_of_m and d_in % pruning.n_of_m[1]:
        raise ValueError(f"{pruning.n_of_m[1]} does not divide the input width {d_in}")
    dynamic = _dynamic_group_size(rounding)
    if dynamic and d_in % dynamic:
        raise ValueError(f"a group size of {dynamic} does not divide the input width {d_in}")
    if dynamic and order is not None:
        raise ValueError("dynamic groups of columns in another order are not groups of neighbours; use static groups")


def _rows_of(weights: Mapping[str, Float[Tensor, "_ d_in"]]) -> dict[str, slice]:
    """Where each linear's rows lie in the stack."""
    rows, start = {}, 0
    for name, weight in weights.items():
        rows[name] = slice(start, start + len(weight))
        start += len(weight)
    return rows


def _dynamic_group_size(rounding: Rounding | None) -> int | None:
    """Columns that get a grid when the loop reaches them; ``None`` if every grid is known before."""
    return rounding.group_size if rounding and not rounding.static_groups else None


def _initial_grid(weight: Float[Tensor, "rows d_in"], rounding: Rounding | None) -> Grid:
    """Grids of the original weights; room for them if they are dynamic; no groups if nothing is rounded."""
    dynamic = _dynamic_group_size(rounding)
    if rounding and not dynamic:
        return fit_grid(weight, rounding.bits, rounding.group_size, rounding.symmetric, rounding.search)
    n_groups = weight.shape[1] // dynamic if dynamic else 0
    scales = weight.new_empty(len(weight), n_groups)
    return Grid(scales, scales.to(torch.uint8))


def _run(
    current: Float[Tensor, "rows d_in"],
    rows: list[slice],
    factor: Float[Tensor, "d_in d_in"],
    pruning: Pruning | None,
    rounding: Rounding | None,
    grid: Grid,
    group: Int64[Tensor, " d_in"],
    longest: int,
) -> tuple[Bool[Tensor, "rows d_in"], list[int]]:
    """The column loop: compresses ``current`` in place, and fills in a ``grid`` of dynamic groups."""
    run_segment = kernels_for("solver", current.device).run_segment
    mask = torch.ones_like(current, dtype=torch.bool)
    difference = torch.empty_like(current)
    tied_of_linears = [0] * len(rows)
    tied_of_rows = torch.zeros(len(current), dtype=torch.int64, device=current.device)
    dynamic = _dynamic_group_size(rounding)
    chosen_by_kernel = _chosen_by_kernel(pruning, dynamic, longest)
    competing = None
    if pruning and not chosen_by_kernel:
        competing = pruning.n_of_m[1] if pruning.n_of_m else pruning.block_size
    for start, end in _segments(current.shape[1], longest, chosen_by_kernel, [competing, dynamic]):
        mask_is_due = competing is not None and start % competing == 0
        grid_is_due = dynamic is not None and start % dynamic == 0
        # Up to where weights are looked at now.
        ahead = max(end, start + (competing or 0) * mask_is_due, start + (dynamic or 0) * grid_is_due)
        reached, inverse = _reached(current, difference, factor, start, min(ahead, current.shape[1]))
        if pruning and competing and mask_is_due:
            scores = (reached.abs() / inverse.diagonal())[:, :competing]
            for i, of in enumerate(rows):
                mask[of, start : start + competing], n_tied = _select(scores[of], pruning)
                tied_of_linears[i] += n_tied
        if rounding and dynamic and grid_is_due:
            found = fit_grid(reached[:, :dynamic], rounding.bits, None, rounding.symmetric, rounding.search)
            for all_groups, one in zip(grid, found, strict=True):
                all_groups[:, start // dynamic] = one[:, 0]
        segment, width = slice(start, end), end - start
        values = reached[:, :width]
        tied_of_rows += run_segment(
            values,
            inverse[:width, :width].contiguous(),
            mask[:, segment],
            chosen_by_kernel,
            grid.scales,
            grid.zeros,
            group[segment],
            2**rounding.bits - 1 if rounding else 0,
        )
        torch.sub(current[:, segment], values, out=difference[:, segment])
        current[:, segment] = values
    return mask, [tied + int(tied_of_rows[of].sum()) for tied, of in zip(tied_of_linears, rows, strict=True)]


def _reached(
    current: Float[Tensor, "rows d_in"],
    difference: Float[Tensor, "rows d_in"],
    factor: Float[Tensor, "d_in d_in"],
    start: int,
    end: int,
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "width width"]]:
    """The weights of some columns, moved for what was done to all columns before; and ``U`` of these columns."""
    block = factor[start:end, start:end]
    identity = torch.eye(end - start, dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(block, identity, upper=True)
    reached = current[:, start:end].clone()
    if start:
        reached.addmm_(difference[:, :start] @ factor[:start, start:end], inverse)
    return reached, inverse


def _select(scores: Float[Tensor, "d_out width"], pruning: Pruning) -> Selection:
    return n_of_m_mask(scores, *pruning.n_of_m) if pruning.n_of_m else unstructured_mask(scores, pruning.sparsity)


def _chosen_by_kernel(pruning: Pruning | None, dynamic: int | None, longest: int) -> tuple[int, int] | None:
    """The ``n`` of ``m`` that the kernel chooses: those whose ``m`` columns always lie in one segment."""
    if not pruning or not pruning.n_of_m:
        return None
    m = pruning.n_of_m[1]
    return pruning.n_of_m if m <= longest and (dynamic is None or dynamic % m == 0) else None


def _segments(
    d_in: int, longest: int, n_of_m: tuple[int, int] | None, periods: list[int | None]
) -> Iterator[tuple[int, int]]:
    """Cut the columns into segments of whole groups of ``m``, and wherever a period begins anew."""
    whole_groups = longest - longest % n_of_m[1] if n_of_m else longest
    starts = {start for period in (whole_groups, *periods) if period for start in range(0, d_in, period)}
    return itertools.pairwise([*sorted(starts), d_in])
