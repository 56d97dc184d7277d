from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nowag_exp.ops.kernels import kmeans_numba, kmeans_reference
from nowag_exp.ops.kmeans import Clustering, Init, assign, kmeans, subvector_weights, subvectors

OPERATION = "kmeans"
D = 3
"""One size of points wherever the size does not matter: each is compiled anew."""


def points(groups: int, rows: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(groups, rows, d, generator=generator), torch.rand(groups, d, generator=generator)


def gridded(groups: int, rows: int, d: int, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points, weights and codewords on whole numbers: many ties, and no rounding in fp32."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, (groups, rows, d), generator=generator).float()
    weights = torch.randint(0, 3, (groups, d), generator=generator).float()
    return values, weights, torch.randint(-3, 4, (n, d), generator=generator).float()


def run(
    values: Tensor, weights: Tensor, n: int, *, seed: int = 0, init: Init = "kmeans++", steps: int = 20
) -> Clustering:
    generator = np.random.default_rng(seed)
    return kmeans(values, weights, n, init=init, restarts=1, iterations=steps, tolerance=0.0, generator=generator)


def slow_distances(values: Tensor, weights: Tensor, codewords: Tensor) -> Tensor:
    """From every point to every codeword, in fp64: groups, rows, codewords."""
    difference = values.double()[:, :, None] - codewords.double()
    return (weights.double()[:, None, None] * difference**2).sum(dim=3)


def slow_loss(values: Tensor, weights: Tensor, found: Clustering) -> float:
    distances = slow_distances(values, weights, found.codewords)
    return float(distances.gather(2, found.assignments.long()[:, :, None]).sum())


def test_subvectors_of_a_width_that_d_does_not_divide_worked_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    values = subvectors(weight, 2)
    assert values.tolist() == [[[1, 2], [4, 5]], [[3, 0], [6, 0]]]
    assert values.is_contiguous()
    assert subvector_weights(torch.tensor([7.0, 8.0, 9.0]), 2).tolist() == [[7, 8], [9, 0]]


@given(d_out=st.integers(1, 5), d_in=st.integers(1, 20), d=st.integers(1, 16))
def test_subvectors_side_by_side_are_the_rows_and_zeros(d_out: int, d_in: int, d: int) -> None:
    weight = torch.arange(d_out * d_in).reshape(d_out, d_in).float()
    rows = torch.cat(list(subvectors(weight, d)), dim=1)
    assert torch.equal(rows[:, :d_in], weight)
    assert rows.shape[1] - d_in == -d_in % d
    assert not rows[:, d_in:].any()


@pytest.mark.parametrize(
    ("groups", "rows", "d", "n"),
    [(1, 1, D, 1), (2, 7, D, 2), (3, 515, D, 64), (3, 33, D, 65), (2, 30, D, 257), (1, 9, D, 1000), (1, 21, 16, 300)],
)
def test_the_nearest_codeword_is_the_one_of_a_loop_over_all_and_the_first_of_equals(
    kernels: ModuleType, groups: int, rows: int, d: int, n: int
) -> None:
    values, weights, codewords = gridded(groups, rows, d, n, seed=n)
    assignments, distances = kernels.assign(values, weights, codewords)
    exact = slow_distances(values, weights, codewords).tolist()
    assert assignments.tolist() == [[row.index(min(row)) for row in group] for group in exact]
    assert distances.tolist() == [[min(row) for row in group] for group in exact]
    assert assignments.dtype == torch.int32


def test_the_nearest_of_real_codewords_is_the_nearest_but_for_rounding(kernels: ModuleType) -> None:
    values, weights = points(2, 100, D, seed=0)
    codewords = torch.randn(700, D, generator=torch.Generator().manual_seed(1))
    assignments, distances = kernels.assign(values, weights, codewords)
    exact = slow_distances(values, weights, codewords)
    taken = exact.gather(2, assignments.long()[:, :, None])[:, :, 0]
    torch.testing.assert_close(taken, exact.amin(dim=2), rtol=0, atol=1e-5)
    torch.testing.assert_close(distances.double(), taken, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    n=st.integers(1, 400),
    moving=st.floats(0, 1),
    whole=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_what_the_last_assignment_spares_changes_nothing(
    rows: int, n: int, moving: float, whole: bool, seed: int
) -> None:
    values, weights, old = gridded(2, rows, D, n, seed)
    generator = torch.Generator().manual_seed(seed)
    if not whole:
        values, old = values + torch.randn(values.shape, generator=generator), torch.randn(n, D, generator=generator)
    steps = torch.randint(-1, 2, old.shape, generator=generator) * (1.0 if whole else 0.1)
    new = torch.where(torch.rand(n, 1, generator=generator) < moving, old + steps, old)
    before, _ = kmeans_numba.assign(values, weights, old)
    assignments, distances = kmeans_numba.reassign(values, weights, new, old, before)
    expected_assignments, expected_distances = kmeans_numba.assign(values, weights, new)
    assert torch.equal(assignments, expected_assignments)
    assert torch.equal(distances, expected_distances)


def test_a_whole_run_is_the_same_without_what_the_last_assignment_spares(monkeypatch: pytest.MonkeyPatch) -> None:
    values, weights = points(6, 300, D, seed=0)
    ours = run(values, weights, 300, steps=60)
    searched_all = 0

    def search_all(values: Tensor, weights: Tensor, codewords: Tensor, old: Tensor, before: Tensor) -> object:
        nonlocal searched_all
        searched_all += int((codewords == old).all(dim=1).sum()) > 30
        return kmeans_numba.assign(values, weights, codewords)

    monkeypatch.setattr(kmeans_numba, "reassign", search_all)
    plain = run(values, weights, 300, steps=60)
    assert torch.equal(ours.codewords, plain.codewords)
    assert torch.equal(ours.assignments, plain.assignments)
    assert searched_all > 5  # in so many steps there was something to spare


def test_weighted_means_worked_by_hand(kernels: ModuleType) -> None:
    values = torch.tensor([[[1.0, 10.0, 5.0]], [[4.0, 20.0, 5.0]], [[9.0, 9.0, 9.0]]])
    weights = torch.tensor([[1.0, 3.0, 0.0], [2.0, 1.0, 0.0], [1.0, 0.0, 2.0]])
    assignments = torch.tensor([[0], [0], [2]], dtype=torch.int32)
    old = torch.tensor([[0.0, 0.0, 7.0], [1.0, 2.0, 3.0], [0.0, 8.0, 0.0]])
    codewords, counts = kernels.update(values, weights, assignments, old)
    # (1·1 + 2·4) / 3, (3·10 + 1·20) / 4; a coordinate that nothing weighs stays, and so does a codeword without points.
    assert codewords.tolist() == [[3.0, 12.5, 7.0], [1.0, 2.0, 3.0], [9.0, 8.0, 9.0]]
    assert counts.tolist() == [2, 0, 1]


def test_many_points_are_averaged_as_in_the_plain_formulation(kernels: ModuleType) -> None:
    values, weights = points(9, 501, D, seed=0)  # enough points for several partial sums
    assignments = torch.randint(5, (9, 501), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    ours, n_ours = kernels.update(values, weights, assignments, torch.zeros(5, D))
    plain, n_plain = kmeans_reference.update(values, weights, assignments, torch.zeros(5, D))
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-7)
    assert torch.equal(n_ours, n_plain)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 60),
    n=st.integers(1, 40),
    init=st.sampled_from(["kmeans++", "random"]),
    whole=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_loss_never_rises_and_is_that_of_the_nearest_codewords(
    rows: int, n: int, init: Init, whole: bool, seed: int
) -> None:
    values, weights = gridded(3, rows, D, 1, seed)[:2] if whole else points(3, rows, D, seed)
    last = float("inf")
    for steps in range(8):
        found = run(values, weights, n, seed=seed, init=init, steps=steps)
        assert found.loss <= last
        assert found.n_steps <= steps
        assert found.loss == pytest.approx(slow_loss(values, weights, found), rel=1e-5, abs=1e-6)
        assert torch.equal(assign(values, weights, found.codewords)[0], found.assignments)
        assert found.n_unused == n - len(set(found.assignments.flatten().tolist()))
        last = found.loss


def test_two_heaps_are_found() -> None:
    values = torch.tensor([[[0.0, 0, 0], [2, 0, 0], [10, 0, 0], [12, 0, 0]]])
    found = run(values, torch.tensor([[2.0, 1, 1]]), 2)
    assert sorted(found.codewords.tolist()) == [[1, 0, 0], [11, 0, 0]]
    assert found.loss == 2 * 4


def test_the_restart_with_the_lowest_loss_is_kept() -> None:
    values, weights = points(3, 60, D, seed=3)

    def losses(restarts: int) -> Clustering:
        generator = np.random.default_rng(0)
        return kmeans(
            values, weights, 7, init="random", restarts=restarts, iterations=5, tolerance=0.0, generator=generator
        )

    generator = np.random.default_rng(0)
    each = [
        kmeans(values, weights, 7, init="random", restarts=1, iterations=5, tolerance=0.0, generator=generator).loss
        for _ in range(6)
    ]
    assert len(set(each)) > 1
    assert [losses(n).loss for n in range(1, 7)] == [min(each[:n]) for n in range(1, 7)]


def test_a_step_that_gains_less_than_the_tolerance_is_the_last() -> None:
    values, weights = points(3, 200, D, seed=0)

    def steps(tolerance: float) -> int:
        generator = np.random.default_rng(0)
        return kmeans(
            values, weights, 20, init="random", restarts=1, iterations=500, tolerance=tolerance, generator=generator
        ).n_steps

    assert steps(0.5) == 1
    assert 1 < steps(0.01) < steps(0.0) < 500


def test_codewords_without_points_move_to_the_points_served_worst() -> None:
    # All four codewords start at points of the heap at 0; the farthest points are taken first, each value once.
    values = torch.tensor([[[0.0, 0, 0]] * 8 + [[6.0, 0, 0], [9.0, 0, 0], [9.0, 0, 0], [7.0, 0, 0]]])
    seed = next(s for s in range(10**4) if (np.random.default_rng(s).choice(12, 4, replace=False) < 8).all())
    found = run(values, torch.ones(1, D), 4, seed=seed, init="random")
    assert found.n_reseeded == 3
    assert found.loss == 0
    assert sorted(found.codewords[:, 0].tolist()) == [0, 6, 7, 9]
    assert found.n_unused == 0


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_fewer_distinct_points_than_codewords_leaves_codewords_unused(init: Init) -> None:
    values = torch.tensor([[[1.0, 0, 0], [2, 0, 0], [1, 0, 0]], [[1, 0, 0], [3, 0, 0], [2, 0, 0]]])
    found = run(values, torch.ones(2, D), 10, init=init)
    assert found.loss == 0
    assert found.n_unused == 7
    assert found.codewords.isfinite().all()


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_what_weighs_nothing_has_no_say(init: Init) -> None:
    values, weights = points(3, 80, D, seed=0)
    weights[:, 1] = 0
    weights[2] = 0
    other = values.clone()
    other[:, :, 1] = 0
    found, without = run(values, weights, 9, init=init), run(other, weights, 9, init=init)
    assert found.codewords.isfinite().all()
    assert torch.equal(found.assignments, without.assignments)
    assert torch.equal(found.codewords[:, [0, 2]], without.codewords[:, [0, 2]])
    assert run(values, torch.zeros(3, D), 9, init=init).loss == 0


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads(init: Init) -> None:
    values, weights = points(8, 1100, D, seed=0)
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(run(values, weights, 40, init=init, steps=15))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert torch.equal(found[0].codewords, other.codewords)
        assert torch.equal(found[0].assignments, other.assignments)
        assert found[0].loss == other.loss


def test_starts_are_drawn_in_proportion_to_the_weighted_squared_distance(kernels: ModuleType) -> None:
    # From the point at 0 in group 0: distances 1·1, 1·4 and, in the other metric, 5·1 and 0.
    values = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 0], [0, 0, 0], [0, 0, 0]]])
    weights = torch.tensor([[1.0, 1, 1], [1, 5, 1]])
    drawn = [
        kernels.plus_plus(values, weights, torch.tensor([0.0, u], dtype=torch.float64))[1].item()
        for u in (torch.arange(50) + 0.5) / 50
    ]
    assert np.bincount(drawn, minlength=6).tolist() == [0, 5, 20, 25, 0, 0]


def test_starts_are_drawn_at_random_as_the_distances_say() -> None:
    values = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]])
    generator = np.random.default_rng(0)
    counts = np.zeros((3, 3))
    for _ in range(3000):
        first, second = kmeans_numba.plus_plus(values, torch.ones(1, D), torch.from_numpy(generator.random(2)))
        counts[first, second] += 1
    # First uniformly; then from 0: 1 to 9, from 1: 1 to 4, from 3: 9 to 4.
    expected = 1000 * np.array([[0, 1 / 10, 9 / 10], [1 / 5, 0, 4 / 5], [9 / 13, 4 / 13, 0]])
    assert (counts[expected == 0] == 0).all()
    # Standard deviations of a count of 3000 draws are below 26.
    assert np.abs(counts - expected).max() < 100


@pytest.mark.parametrize("rows", [5, 1024, 2500])
def test_starts_are_those_of_the_plain_formulation_and_distinct(kernels: ModuleType, rows: int) -> None:
    values, weights = points(3, rows, D, seed=0)
    uniforms = torch.rand(10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = kernels.plus_plus(values, weights, uniforms)
    assert torch.equal(drawn, kmeans_reference.plus_plus(values, weights, uniforms))
    assert len(drawn.unique()) == 10


def test_when_all_points_are_drawn_the_first_is_drawn_again(kernels: ModuleType) -> None:
    values = torch.tensor([[[4.0, 0, 0], [5, 0, 0], [4, 0, 0]]])
    drawn = kernels.plus_plus(values, torch.ones(1, D), torch.full((5,), 0.999999, dtype=torch.float64))
    assert drawn.tolist() == [2, 1, 0, 0, 0]


def test_what_has_no_distance_is_refused() -> None:
    values, weights = points(1, 4, D, seed=0)
    with pytest.raises(ValueError, match="finite"):
        run(values * torch.inf, weights, 2)
    with pytest.raises(ValueError, match="not negative"):
        run(values, -weights, 2)
    with pytest.raises(ValueError, match="0 codewords"):
        run(values, weights, 0)


def test_reassigning_on_a_gpu_is_assigning() -> None:
    pytest.importorskip("triton")
    from nowag_exp.ops.kernels import kmeans_triton

    values, weights, codewords = gridded(3, 70, D, 20, seed=0)
    before, _ = kmeans_triton.assign(values, weights, codewords.flip(0))
    again = kmeans_triton.reassign(values, weights, codewords, codewords.flip(0), before)
    assert all(map(torch.equal, again, kmeans_reference.assign(values, weights, codewords)))


def test_a_gpu_takes_few_groups_at_a_time_where_their_norms_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from nowag_exp.ops.kernels import kmeans_triton

    monkeypatch.setattr(kmeans_triton, "NORMS_AT_ONCE", 100)
    values, weights, codewords = gridded(7, 5, D, 40, seed=0)  # 48 norms of a group: two groups at a time
    ours = kmeans_triton.assign(values, weights, codewords)
    assert all(map(torch.equal, ours, kmeans_reference.assign(values, weights, codewords)))


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_gpu_draws_the_same_however_many_sums_it_adds_at_a_time(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    pytest.importorskip("triton")
    from nowag_exp.ops.kernels import kmeans_triton

    monkeypatch.setattr(kmeans_triton, "SUMS", at_once)
    values, weights = points(3, 1500, D, seed=0)  # 6 chunks
    uniforms = torch.tensor([0.3, 0.0, 0.2, 0.9, 1 - 2**-53], dtype=torch.float64)
    drawn = kmeans_triton.plus_plus(values, weights, uniforms)
    assert torch.equal(drawn, kmeans_reference.plus_plus(values, weights, uniforms))


def test_a_whole_run_of_a_gpu_is_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from nowag_exp.ops import kmeans as module
    from nowag_exp.ops.kernels import kmeans_triton

    values, weights = points(2, 60, D, seed=0)
    ours = run(values, weights, 9, steps=4)
    monkeypatch.setattr(module, "kernels_for", lambda operation, device: kmeans_triton)
    theirs = run(values, weights, 9, steps=4)
    assert torch.equal(ours.assignments, theirs.assignments)
    assert ours.n_steps == theirs.n_steps
    torch.testing.assert_close(ours.codewords, theirs.codewords, rtol=1e-6, atol=1e-7)
