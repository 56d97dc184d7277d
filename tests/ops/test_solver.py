"""The column loop against optimal brain surgery as the textbook has it: no Cholesky factor, no blocks, float64."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nowag_exp.ops import solver
from nowag_exp.ops.factor import activation_order, hessian_factor
from nowag_exp.ops.grids import dequantize, fit_grid, quantize
from nowag_exp.ops.kernels import solver_numba, solver_reference
from nowag_exp.ops.masks import keep_top
from nowag_exp.ops.solver import SEGMENT, Pruning, Rounding, Solution, solve

OPERATION = "solver"
DAMPENING = 0.01


def problem(rows: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight, and the Hessian of correlated inputs of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(width) + torch.randn(width, width, generator=generator) / width**0.5
    inputs = torch.randn(2 * width, width, generator=generator) @ mixing * (0.5 + torch.arange(width) % 3)
    return torch.randn(rows, width, generator=generator), inputs.T @ inputs / width


def solve_one(
    weight: Tensor,
    hessian: Tensor,
    pruning: Pruning | None = None,
    rounding: Rounding | None = None,
    act_order: bool = False,
    segment: int = SEGMENT,
) -> Solution:
    """Factor and solve, as a method does it."""
    order = activation_order(hessian.diagonal()) if act_order else None
    factor = hessian_factor(hessian if order is None else hessian[order][:, order], DAMPENING)
    dead = hessian.diagonal() == 0
    return solve({"one": weight}, factor, dead=dead, pruning=pruning, rounding=rounding, order=order, segment=segment)[
        "one"
    ]


def textbook(
    weight: Tensor, hessian: Tensor, pruning: Pruning | None, rounding: Rounding | None, act_order: bool
) -> tuple[Tensor, Tensor]:
    """Values and mask: after every column the Hessian of the columns that remain is inverted anew."""
    d_in = weight.shape[1]
    dead = hessian.diagonal() == 0
    damped = hessian.double() + torch.diag(1.0 * dead)
    damped += DAMPENING * damped.diagonal().mean() * torch.eye(d_in)
    w = weight.double().masked_fill(dead, 0.0)
    original = w.clone()
    columns = activation_order(hessian.diagonal()).tolist() if act_order else list(range(d_in))
    inverses = [torch.linalg.inv(damped[columns[i:]][:, columns[i:]]) for i in range(d_in)]
    mask = torch.ones_like(w, dtype=torch.bool)
    grids: dict[int, tuple[Tensor, Tensor]] = {}
    for i, column in enumerate(columns):
        if pruning:
            n, m = pruning.n_of_m or (0, pruning.block_size)
            if i % m == 0:
                block = columns[i : i + m]
                spans = [inverses[k][0, 0] for k in range(i, i + len(block))]
                scores = w[:, block] ** 2 / torch.stack(spans)
                if pruning.n_of_m:
                    mask[:, block] = keep_top(scores, n).mask
                else:
                    kept = scores.numel() - int(scores.numel() * pruning.sparsity)
                    mask[:, block] = keep_top(scores.reshape(1, -1), kept).mask.reshape(scores.shape)
        q = w[:, column].clone()
        if rounding:
            size = rounding.group_size or d_in
            group = column // size
            if group not in grids:
                static = rounding.static_groups or rounding.group_size is None
                of = (original if static else w)[:, group * size : (group + 1) * size].float()
                grid = fit_grid(of, rounding.bits, None, rounding.symmetric, rounding.search)
                grids[group] = grid.scales[:, 0].double(), grid.zeros[:, 0].double()
            scale, zero = grids[group]
            q = ((q / scale).round() + zero).clamp(0, 2**rounding.bits - 1).sub(zero) * scale
        q = q.masked_fill(~mask[:, column], 0.0)
        change = (w[:, column] - q)[:, None] / inverses[i][0, 0] * inverses[i][0]
        w[:, columns[i:]] -= change
        w[:, column] = q
    return w, mask


HALF = Pruning(0.5, None, 8)
FOUR_BITS = Rounding(4, None, False, "minmax", False)

CASES = {
    "SparseGPT, the whole matrix at once": (Pruning(0.5, None, 128), None, False),
    "SparseGPT in blocks": (HALF, None, False),
    "SparseGPT in blocks that do not fill the width": (Pruning(0.3, None, 5), None, False),
    "SparseGPT in order of activation": (HALF, None, True),
    "SparseGPT 2:4": (Pruning(0.5, (2, 4), 128), None, False),
    "SparseGPT 4:8": (Pruning(0.5, (4, 8), 4), None, False),
    "joint": (HALF, FOUR_BITS, False),
    "joint 2:4 with groups": (Pruning(0.5, (2, 4), 128), Rounding(3, 8, True, "mse", False), False),
    "joint 4:8 with groups smaller than 8": (Pruning(0.5, (4, 8), 128), Rounding(3, 4, False, "minmax", False), False),
    "joint with blocks that cut groups": (Pruning(0.5, None, 6), Rounding(4, 4, False, "minmax", False), False),
    "GPTQ": (None, FOUR_BITS, False),
    "GPTQ, 2 bits, symmetric": (None, Rounding(2, None, True, "minmax", False), False),
    "GPTQ, searched grid": (None, Rounding(3, None, False, "mse", False), False),
    "GPTQ, groups": (None, Rounding(4, 4, False, "minmax", False), False),
    "GPTQ, static groups": (None, Rounding(4, 4, False, "minmax", True), False),
    "GPTQ in order of activation": (None, FOUR_BITS, True),
    "GPTQ in order of activation, static groups": (None, Rounding(4, 8, True, "minmax", True), True),
}


@pytest.mark.parametrize(("rows", "width"), [(6, 16), (8, 24)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("segment", [SEGMENT, 8])
def test_the_column_loop_is_optimal_brain_surgery(case: str, rows: int, width: int, segment: int) -> None:
    weight, hessian = problem(rows, width)
    hessian[3], hessian[:, 3] = 0.0, 0.0  # an input that is never active
    pruning, rounding, act_order = CASES[case]
    solution = solve_one(weight, hessian, pruning, rounding, act_order, segment)
    values, mask = textbook(weight, hessian, pruning, rounding, act_order)
    torch.testing.assert_close(solution.values.double(), values, rtol=1e-4, atol=1e-4)
    assert (solution.mask is None) == (pruning is None)
    assert (solution.codes is None) == (solution.grid is None) == (rounding is None)
    if solution.mask is not None:
        assert torch.equal(solution.mask, mask)
    assert not solution.values[:, 3].any()


def test_pruning_one_of_two_weights_worked_by_hand() -> None:
    # inv([[2, 1], [1, 2]]) = [[2, -1], [-1, 2]] / 3: the scores are 1 / (2/3) and, of the last column alone, 1 / (1/2).
    # The first goes, and the second gains 1 · H_12 / H_22.
    factor = hessian_factor(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 0.0)
    dead = torch.zeros(2, dtype=torch.bool)
    solution = solve(
        {"w": torch.ones(1, 2)}, factor, dead=dead, pruning=Pruning(0.5, None, 2), rounding=None, order=None
    )["w"]
    torch.testing.assert_close(solution.values, torch.tensor([[0.0, 1.5]]))
    assert solution.mask is not None
    assert solution.mask.tolist() == [[False, True]]


def test_rounding_two_weights_worked_by_hand() -> None:
    # 2 bits over ±1.5: steps of 1. 0.4 becomes 0, its error moves -1.5 by 0.4 · 0.9 to -1.14, which becomes -1 where
    # rounding alone would have made it -2.
    factor = hessian_factor(torch.tensor([[1.0, 0.9], [0.9, 1.0]]), 0.0)
    solution = solve(
        {"w": torch.tensor([[0.4, -1.5]])},
        factor,
        dead=torch.zeros(2, dtype=torch.bool),
        pruning=None,
        rounding=Rounding(2, None, True, "minmax", False),
        order=None,
    )["w"]
    assert solution.codes is not None
    assert solution.codes.tolist() == [[2, 1]]
    assert solution.values.tolist() == [[0.0, -1.0]]


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_the_codes_bit_for_bit_and_removed_weights_are_zero(case: str) -> None:
    weight, hessian = problem(40, 144)  # more than one segment
    pruning, rounding, act_order = CASES[case]
    solution = solve_one(weight, hessian, pruning, rounding, act_order)
    if rounding:
        assert solution.codes is not None
        assert solution.grid is not None
        assert torch.equal(solution.values, dequantize(solution.codes, solution.grid, rounding.group_size))
        if solution.mask is not None:
            zero_codes = solution.grid.zeros.repeat_interleave(rounding.group_size or 144, dim=1)
            assert torch.equal(solution.codes[~solution.mask], zero_codes[~solution.mask])
    if solution.mask is not None:
        assert not solution.values[~solution.mask].any()


@pytest.mark.parametrize("n_of_m", [(2, 4), (3, 6), (8, 16), (50, 100), (100, 150)])
@pytest.mark.parametrize("group_size", [None, 60])
def test_any_n_of_m_is_kept_wherever_segments_end(n_of_m: tuple[int, int], group_size: int | None) -> None:
    n, m = n_of_m
    weight, hessian = problem(5, 1200)
    rounding = Rounding(4, group_size, False, "minmax", False) if group_size else None
    solution = solve_one(weight, hessian, Pruning(0.0, n_of_m, 128), rounding)
    assert solution.mask is not None
    assert (solution.mask.reshape(-1, m).sum(dim=1) == n).all()


def assert_same_but_for_ties(ours: Solution, other: Solution) -> None:
    """Equal in nearly all rows: where a weight lies on a threshold, the order of a sum decides, and the row goes on so.

    Another processor's matrix products add in another order, so which rows these are is nobody's promise.
    """
    close = torch.isclose(ours.values, other.values, rtol=1e-3, atol=1e-4).all(dim=1)
    assert int((~close).sum()) <= max(1, len(close) // 10), f"{int((~close).sum())} of {len(close)} rows differ"
    if ours.mask is not None and other.mask is not None:
        assert torch.equal(ours.mask[close], other.mask[close])


@pytest.mark.parametrize("case", ["SparseGPT in blocks", "GPTQ", "GPTQ, groups", "joint 2:4 with groups"])
def test_segments_give_what_going_column_by_column_gives(case: str) -> None:
    weight, hessian = problem(20, 288)
    pruning, rounding, act_order = CASES[case]
    in_segments = solve_one(weight, hessian, pruning, rounding, act_order)
    by_column = solve_one(weight, hessian, pruning, rounding, act_order, segment=1)
    assert_same_but_for_ties(in_segments, by_column)


@pytest.mark.parametrize("case", CASES)
def test_stacked_linears_are_solved_as_each_alone(case: str) -> None:
    weight, hessian = problem(21, 144)
    pruning, rounding, act_order = CASES[case]
    order = activation_order(hessian.diagonal()) if act_order else None
    factor = hessian_factor(hessian if order is None else hessian[order][:, order], DAMPENING)
    weights = {"query": weight[:11], "key": 3 * weight[11:15], "value": weight[15:]}
    together = solve(
        weights, factor, dead=torch.zeros(144, dtype=torch.bool), pruning=pruning, rounding=rounding, order=order
    )
    assert list(together) == list(weights)
    for name, solution in together.items():
        assert_same_but_for_ties(solution, solve_one(weights[name], hessian, pruning, rounding, act_order))


Kernel = Callable[..., Tensor]
KERNEL_CASES = {
    "pruned": (70, 40, None, 0),
    "rounded": (70, 40, None, 1),
    "rounded on several grids": (64, 40, None, 3),
    "2:4": (70, 40, (2, 4), 0),
    "3:6 and rounded": (3, 36, (3, 6), 2),
}


def run_kernel(kernel: Kernel, case: str) -> list[Tensor]:
    rows, width, n_of_m, n_groups = KERNEL_CASES[case]
    generator = torch.Generator().manual_seed(0)
    # Views of wider matrices, as the solver passes them; few different weights, so that there are ties.
    weights = torch.randint(-20, 20, (rows, width + 5), generator=generator) / 7
    mask = torch.rand(rows, width + 5, generator=generator) > 0.4
    factor = (2 * torch.eye(width) + torch.randint(-1, 2, (width, width), generator=generator) / 8).triu()
    scales = torch.rand(rows, n_groups, generator=generator) + 0.1
    zeros = torch.randint(0, 16, (rows, n_groups), generator=generator, dtype=torch.uint8)
    group = torch.randint(0, max(n_groups, 1), (width,), generator=generator)
    n_tied = kernel(weights[:, :width], factor, mask[:, :width], n_of_m, scales, zeros, group, 15)
    return [weights, mask, n_tied]


@pytest.mark.parametrize("case", KERNEL_CASES)
def test_every_kernel_equals_its_twin_bit_for_bit(kernels: ModuleType, case: str) -> None:
    results = zip(run_kernel(kernels.run_segment, case), run_kernel(solver_reference.run_segment, case), strict=True)
    assert all(torch.equal(ours, twin) for ours, twin in results)


def test_the_kernel_counts_ties() -> None:
    assert int(run_kernel(solver_numba.run_segment, "2:4")[2].sum()) > 0


def test_the_number_of_threads_changes_nothing_and_is_not_changed() -> None:
    threads = torch.get_num_threads()
    several = run_kernel(solver_numba.run_segment, "rounded")
    torch.set_num_threads(1)
    try:
        one = run_kernel(solver_numba.run_segment, "rounded")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(several, one, strict=True))


@pytest.mark.parametrize("pruning", [None, Pruning(0.5, (2, 4), 8), Pruning(0.5, None, 8)])
def test_a_whole_loop_is_the_same_by_all_kernels(
    kernels: ModuleType, pruning: Pruning | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, hessian = problem(8, 24)
    monkeypatch.setattr(solver, "kernels_for", lambda operation, device: kernels)
    found = solve_one(weight, hessian, pruning, FOUR_BITS)
    monkeypatch.setattr(solver, "kernels_for", lambda operation, device: solver_reference)
    assert torch.equal(found.values, solve_one(weight, hessian, pruning, FOUR_BITS).values)


@settings(max_examples=25, deadline=None)
@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    group_size=st.sampled_from([None, 4]),
    static=st.booleans(),
    seed=st.integers(0, 999),
)
def test_with_a_diagonal_hessian_gptq_rounds_to_nearest(
    bits: int, symmetric: bool, group_size: int | None, static: bool, seed: int
) -> None:
    weight, hessian = problem(5, 12, seed)
    rounding = Rounding(bits, group_size, symmetric, "minmax", static)
    solution = solve_one(weight, torch.diag(hessian.diagonal()), rounding=rounding)
    grid = fit_grid(weight, bits, group_size, symmetric, "minmax")
    assert solution.codes is not None
    assert torch.equal(solution.codes, quantize(weight, grid, bits, group_size))


@settings(max_examples=25, deadline=None)
@given(sparsity=st.floats(0, 0.99), block_size=st.integers(1, 20), seed=st.integers(0, 999))
def test_the_same_number_of_weights_goes_in_every_block_of_every_linear(
    sparsity: float, block_size: int, seed: int
) -> None:
    weight, hessian = problem(7, 18, seed)
    factor = hessian_factor(hessian, DAMPENING)
    solutions = solve(
        {"up": weight[:3], "gate": weight[3:]},
        factor,
        dead=torch.zeros(18, dtype=torch.bool),
        pruning=Pruning(sparsity, None, block_size),
        rounding=None,
        order=None,
    )
    for solution in solutions.values():
        assert solution.mask is not None
        for block in solution.mask.split(block_size, dim=1):
            assert int((~block).sum()) == int(block.numel() * sparsity)


@settings(max_examples=25, deadline=None)
@given(
    case=st.sampled_from(["SparseGPT in blocks", "SparseGPT 2:4", "GPTQ, groups", "joint"]),
    seed=st.integers(0, 999),
)
def test_rows_have_nothing_to_do_with_their_order(case: str, seed: int) -> None:
    weight, hessian = problem(9, 16, seed)
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    pruning, rounding, act_order = CASES[case]
    first = solve_one(weight, hessian, pruning, rounding, act_order).values[shuffled]
    assert torch.equal(first, solve_one(weight[shuffled], hessian, pruning, rounding, act_order).values)


@pytest.mark.parametrize("pruning", [None, Pruning(0.0, None, 8), Pruning(0.0, (4, 4), 8)])
def test_weights_of_which_none_goes_are_unchanged(pruning: Pruning | None) -> None:
    weight, hessian = problem(6, 16)
    before = weight.clone()
    assert torch.equal(solve_one(weight, hessian, pruning).values, weight)
    assert torch.equal(weight, before)


def test_neither_the_weights_nor_the_factor_are_changed() -> None:
    weight, hessian = problem(6, 16)
    factor = hessian_factor(hessian, DAMPENING)
    dead = torch.zeros(16, dtype=torch.bool)
    dead[2] = True
    before = weight.clone(), factor.clone()
    solve({"w": weight}, factor, dead=dead, pruning=HALF, rounding=FOUR_BITS, order=None)
    assert torch.equal(weight, before[0])
    assert torch.equal(factor, before[1])


def test_weights_of_half_precision_are_solved_in_fp32() -> None:
    weight, hessian = problem(6, 16)
    half = solve_one(weight.bfloat16(), hessian, HALF)
    assert half.values.dtype == torch.float32
    assert torch.equal(half.values, solve_one(weight.bfloat16().float(), hessian, HALF).values)


def test_compensation_lowers_the_error_of_the_outputs() -> None:
    weight, hessian = problem(32, 144)

    def error(values: Tensor) -> float:
        change = values - weight
        return float(((change @ hessian) * change).sum())

    static = Rounding(3, 16, False, "minmax", True)
    grid = fit_grid(weight, 3, 16, False, "minmax")
    assert error(solve_one(weight, hessian, None, static).values) < 0.8 * error(
        dequantize(quantize(weight, grid, 3, 16), grid, 16)
    )
    pruned = solve_one(weight, hessian, Pruning(0.5, None, 128))
    assert pruned.mask is not None
    assert error(pruned.values) < 0.8 * error(weight * pruned.mask)


@pytest.mark.parametrize("pruning", [Pruning(0.5, None, 4), Pruning(0.5, (2, 4), 128), Pruning(0.5, (100, 200), 128)])
def test_ties_that_position_decides_are_counted(pruning: Pruning) -> None:
    # Weights that are all equal and a Hessian that knows no difference: half of all goes by position alone.
    solution = solve_one(torch.ones(3, 400), torch.eye(400), pruning)
    assert solution.n_tied == 600
    weight, hessian = problem(3, 400)
    assert solve_one(weight, hessian, pruning).n_tied == 0


def test_what_columns_cannot_be_cut_into_is_refused() -> None:
    weight, hessian = problem(2, 12)
    with pytest.raises(ValueError, match="8 does not divide the input width 12"):
        solve_one(weight, hessian, Pruning(0.5, (4, 8), 128))
    for static in (True, False):
        with pytest.raises(ValueError, match="group size of 8 does not divide the input width 12"):
            solve_one(weight, hessian, None, Rounding(4, 8, False, "minmax", static))


def test_an_order_that_would_scatter_neighbours_is_refused() -> None:
    weight, hessian = problem(2, 12)
    with pytest.raises(ValueError, match="N:M competes among neighbouring inputs"):
        solve_one(weight, hessian, Pruning(0.5, (2, 4), 128), None, act_order=True)
    with pytest.raises(ValueError, match="use static groups"):
        solve_one(weight, hessian, None, Rounding(4, 4, False, "minmax", False), act_order=True)
