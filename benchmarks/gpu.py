"""The kernels of a GPU, and whole methods on the linears of Llama-2-7B: right, and how far from what the card can do.

Every kernel is first held to its plain torch twin on random inputs of its own. Floors are operations over the measured
rate and bytes over the measured bandwidth; the twins that would take minutes are timed on a part, as the name says. Any
device will do, so that the logic is tested without a GPU.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.bench import take_all
from benchmarks.masks import plain_mask, plain_n_of_m_mask
from benchmarks.solver import GPTQ, SPARSEGPT, check_same, plain_solve, random_hessian, solver_work
from benchmarks.timing import Comparison, Rates, Wanted, Work, compare, seconds, wait
from nowag_exp.errors import NowagError
from nowag_exp.formats import CodebookWeight
from nowag_exp.ledger import Ledger
from nowag_exp.methods import NoWagP, NoWagVQ, SiteStatistics
from nowag_exp.models import SITES, Architecture
from nowag_exp.ops import kmeans
from nowag_exp.ops.factor import hessian_factor
from nowag_exp.ops.kernels import kmeans_reference
from nowag_exp.ops.kernels.choice import kernels_for
from nowag_exp.ops.masks import n_of_m_mask, unstructured_mask
from nowag_exp.ops.packing import unpack
from nowag_exp.ops.solver import solve

LLAMA2_7B = Architecture(
    hidden_size=4096,
    intermediate_size=11008,
    n_blocks=32,
    n_heads=32,
    n_kv_heads=32,
    head_dim=128,
    vocabulary=32000,
    tied=False,
)

VQ = NoWagVQ(
    name="nowag_vq",
    normalise="both",
    d=6,
    bits=2.0,
    init="kmeans++",
    restarts=1,
    iterations=100,
    tolerance=0.0,
    seed=0,
    propagate="dense",
)
PRUNER = NoWagP(name="nowag_p", normalise="both", sparsity=0.5, pattern="unstructured", propagate="dense")

FLOORS = Wanted(floors=3)

PART = 64
"""One in so many points is given to the slow twins of k-means, and one in so many picks drawn."""


@dataclass(frozen=True)
class Points:
    """What k-means works on: the subvectors of a normalised weight, their metric, and codewords to begin with."""

    values: Tensor
    weights: Tensor
    codewords: Tensor

    @classmethod
    def random(cls, shape: tuple[int, int], vq: NoWagVQ, device: torch.device) -> "Points":
        weight, statistics = random_linear(shape, device, 0)
        target = vq.target(weight, statistics)
        values = kmeans.subvectors(target.values, vq.d)
        flat = values.flatten(0, 1)
        chosen = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[: 1 << vq.index_bits]
        return cls(values, kmeans.subvector_weights(target.importance, vq.d), flat[chosen.to(device)])

    def part(self) -> "Points":
        """The first of the column groups."""
        n = max(1, len(self.values) // PART)
        return Points(self.values[:n].contiguous(), self.weights[:n].contiguous(), self.codewords)

    def assignment_work(self) -> Work:
        """Of one search among all codewords."""
        return Work(scalar=2.0 * self.values.numel() * len(self.codewords), moved=self.values.nbytes)

    def start_work(self, n_picks: int) -> Work:
        """Of a start: each pick reads the points and its distances, and writes these."""
        moved = self.values.nbytes + 8.0 * self.values.numel() / self.values.shape[2]
        return Work(scalar=2.0 * self.values.numel(), moved=moved).times(n_picks)


def random_linear(shape: tuple[int, int], device: torch.device, seed: int) -> tuple[Tensor, SiteStatistics]:
    """A weight in fp16 and the diagonal of its inputs."""
    generator = torch.Generator(device=device).manual_seed(seed)
    weight = (torch.randn(shape, generator=generator, device=device) / shape[1] ** 0.5).half()
    squares = torch.rand(shape[1], generator=generator, device=device, dtype=torch.float64)
    return weight, SiteStatistics(4096, squares)


def run(device: torch.device, rates: Rates, sizes: Architecture, quick: bool, vq: NoWagVQ = VQ) -> Iterator[Comparison]:
    """Kernels, then methods; ``quick`` takes one block instead of all."""
    yield from kmeans_rows(device, rates, sizes, vq)
    yield from solver_rows(device, rates, sizes)
    yield from mask_rows(device, rates, sizes)
    yield from decoding_rows(device, rates, sizes, vq)
    yield from method_rows(device, rates, replace(sizes, n_blocks=1) if quick else sizes, vq)


def kmeans_rows(device: torch.device, rates: Rates, sizes: Architecture, vq: NoWagVQ) -> Iterator[Comparison]:
    shape = sizes.linears()["self_attn.o_proj"]
    points = Points.random(shape, vq, device)
    part, kernels, n_codewords = points.part(), kernels_for("kmeans", device), len(points.codewords)
    values, weights, codewords = points.values, points.weights, points.codewords
    assignments, _ = kernels.assign(values, weights, codewords)
    small = part.values, part.weights, part.codewords

    theirs, distances = kmeans_reference.assign(*small)
    found, own = kernels.assign(*small)
    # Codewords that are equally near but for rounding: either will do.
    _require("weighted assignment", (own - distances).abs() <= 1e-4 * distances.abs() + 1e-6)
    _require("weighted assignment", [(found != theirs).float().mean() <= 1e-3])
    moved, counts = kernels.update(part.values, part.weights, theirs, codewords)
    plain_moved, plain_counts = kmeans_reference.update(part.values, part.weights, theirs, codewords)
    _require("centroid update", (moved - plain_moved).abs() <= 1e-4 * plain_moved.abs() + 1e-6)
    _require("centroid update", counts == plain_counts.to(counts.device))
    uniforms = torch.from_numpy(np.random.default_rng(0).random(n_codewords))
    few = uniforms[: max(2, n_codewords // PART)]
    # Where a running sum passes a draw depends on the order of the sum, and one other point changes all draws after it:
    # what must agree is how well the drawn points serve the others.
    served = [
        kmeans_reference.assign(part.values, part.weights, part.values.flatten(0, 1)[start.to(device)])[1].sum()
        for start in (draw(part.values, part.weights, few) for draw in (kernels.plus_plus, kmeans_reference.plus_plus))
    ]
    _require("k-means++ start", [(served[0] / served[1] - 1).abs() <= 0.25])

    sized = f"{shape[0]}×{shape[1]}, d {vq.d}, {n_codewords} codewords"
    yield _scaled(
        f"weighted assignment, {sized}; twin on 1/{PART}",
        lambda: kernels.assign(values, weights, codewords),
        lambda: kmeans_reference.assign(*small),
        len(values) / len(part.values),
        points.assignment_work().floor(rates),
        device,
    )
    n_points = assignments.numel()
    yield _timed(
        f"centroid update, {sized}",
        lambda: kernels.update(values, weights, assignments, codewords),
        lambda: kmeans_reference.update(values, weights, assignments, codewords),
        Work(moved=values.nbytes + 4.0 * n_points).floor(rates),
        device,
    )
    yield _scaled(
        f"k-means++ start, {sized}; twin with {len(few)} picks",
        lambda: kernels.plus_plus(values, weights, uniforms),
        lambda: kmeans_reference.plus_plus(values, weights, few),
        n_codewords / len(few),
        points.start_work(n_codewords).floor(rates),
        device,
    )


def solver_rows(device: torch.device, rates: Rates, sizes: Architecture) -> Iterator[Comparison]:
    """The linears of one site: q, k and v, or gate and up."""
    shapes = [sizes.linears()[path] for path in SITES[0].linears]
    hessian = random_hessian(shapes[0][1], torch.Generator().manual_seed(0)).to(device)
    weights = {str(i): random_linear(shape, device, i)[0].float() for i, shape in enumerate(shapes)}
    work = solver_work(sum(d_out for d_out, _ in shapes), shapes[0][1])
    for name, prune in (("SparseGPT, 50%", True), ("GPTQ, 4 bits in groups of 64", False)):

        def ours(prune: bool = prune) -> dict[str, Tensor]:
            solutions = solve(
                weights,
                hessian_factor(hessian, 0.01),
                dead=hessian.diagonal() == 0,
                pruning=SPARSEGPT if prune else None,
                rounding=None if prune else GPTQ,
                order=None,
            )
            return {linear: solution.values for linear, solution in solutions.items()}

        def plain(prune: bool = prune) -> dict[str, Tensor]:
            return {"0": plain_solve(weights["0"], hessian, prune=prune)}

        check_same({"0": ours()["0"]}, plain())
        title = f"{name}, {len(shapes)} linears of {shapes[0][0]}×{shapes[0][1]}; plain on one"
        yield _scaled(title, ours, plain, len(shapes), work.floor(rates), device)


def mask_rows(device: torch.device, rates: Rates, sizes: Architecture) -> Iterator[Comparison]:
    """Selection alone, from scores to a mask."""
    shape = sizes.linears()["mlp.up_proj"]
    scores = torch.rand(shape, generator=torch.Generator(device=device).manual_seed(0), device=device)
    floor = Work(moved=scores.nbytes + float(scores.numel())).floor(rates)
    ours: dict[str, Callable[[], Tensor]] = {
        "50%": lambda: unstructured_mask(scores, 0.5).mask,
        "2:4": lambda: n_of_m_mask(scores, 2, 4).mask,
    }
    plain: dict[str, Callable[[], Tensor]] = {
        "50%": lambda: plain_mask(scores, 0.5),
        "2:4": lambda: plain_n_of_m_mask(scores, 2, 4),
    }
    for pattern, select in ours.items():
        mask = select()
        removed = scores[~mask]
        _require(f"mask {pattern}", [int(mask.sum()) == scores.numel() - scores.numel() // 2])
        if pattern == "50%":
            _require("mask 50%", [removed.max() <= scores[mask].min()])
        else:
            _require("mask 2:4", mask.reshape(-1, 4).sum(dim=1) == 2)
        yield _timed(
            f"mask at {pattern}, {shape[0]}×{shape[1]}, against argsort", select, plain[pattern], floor, device
        )


def decoding_rows(device: torch.device, rates: Rates, sizes: Architecture, vq: NoWagVQ) -> Iterator[Comparison]:
    """A codebook weight as values, and its product with the activation of one token."""
    from nowag_exp.formats.quantizer import PackedLinear

    d_out, d_in = sizes.linears()["mlp.up_proj"]
    generator = torch.Generator(device=device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    n_codewords, groups = 1 << vq.index_bits, -(-d_in // vq.d)
    indices = torch.randint(n_codewords, (d_out, groups), generator=generator, device=device)
    codebook = (random(n_codewords, vq.d) - 0.5).half()
    weight = CodebookWeight.of(d_in, indices, codebook, random(d_out), random(d_in))
    rows, columns = weight.row_norms, weight.column_norms
    assert rows is not None
    assert columns is not None

    def plain() -> Tensor:
        looked_up = codebook.float()[unpack(weight.indices, vq.index_bits, d_out * groups)]
        return looked_up.reshape(d_out, -1)[:, :d_in] * rows.float()[:, None] * columns.float()

    values = weight.decompress()
    _require("codebook lookup", values == plain())
    sized, packed_bytes = f"{d_out}×{d_in}, d {vq.d}, {n_codewords} codewords", weight.bits / 8
    floor = Work(moved=packed_bytes + values.nbytes).floor(rates)
    yield _timed(f"unpacking with lookup, {sized}", weight.decompress, plain, floor, device)

    linear = PackedLinear(
        "up_proj", weight.kind, weight.layout(), weight.specs(weight.layout()), torch.float16, None
    ).to_empty(device=device)
    for name, tensor in weight.tensors().items():
        getattr(linear, name).copy_(tensor)
    dense, token = values.half(), (random(1, 1, d_in) - 0.5).half()
    with torch.inference_mode():
        exact = nn.functional.linear(token.float(), values)
        _require("decode product", (linear(token).float() - exact).abs() <= 0.02 * exact.abs().max())
        floor = Work(moved=packed_bytes).floor(rates)
        yield _timed(
            f"decode product, one token, {sized}, against dense fp16",
            lambda: linear(token),
            lambda: nn.functional.linear(token, dense),
            floor,
            device,
            calls=50,
        )


def method_rows(device: torch.device, rates: Rates, sizes: Architecture, vq: NoWagVQ) -> Iterator[Comparison]:
    """Every linear of the model with random weights, made when it is its turn; making them is not timed."""
    n_linears = sizes.n_blocks * len(sizes.linears())
    warm_up = {"warm": random_linear(sizes.linears()["mlp.up_proj"], device, 0)}
    for weight, statistics in warm_up.values():
        PRUNER.compress({"warm": weight}, statistics, Ledger())
        replace(vq, iterations=1).compress({"warm": weight}, statistics, Ledger())
    pruned = 0.0
    for weight, statistics in _linears(sizes, device):
        pruned += seconds(lambda w=weight, s=statistics: PRUNER.compress({"w": w}, s, Ledger()), device)  # type: ignore[misc]
    n_weights = float(sizes.n_blocks * sizes.block_weights)
    # Column norms, row norms and the threshold each need all that is before them: three passes over 16 bits, and one
    # that writes the mask and half of the values.
    floor = Work(moved=n_weights * (4 * 2.0 + 0.125 + 1.0)).floor(rates)
    name = f"{n_linears} linears of {sizes.hidden_size} and {sizes.intermediate_size}"
    yield Comparison(f"NoWag-P 50%, {name}", pruned, None, (floor / pruned,), floor, Wanted(floors=3, at_most=20))

    spent, works, n_steps = 0.0, [], 0
    for number, (weight, statistics) in enumerate(_linears(sizes, device)):
        wait(device)
        start = time.perf_counter()
        work, steps = _quantize(vq, weight, statistics, number)
        wait(device)
        spent += time.perf_counter() - start
        n_steps += steps
        works.append(work)
    floor = take_all(works).floor(rates)
    yield Comparison(
        f"NoWag-VQ d {vq.d}, {1 << vq.index_bits} codewords, {name}",
        spent,
        None,
        (floor / spent,),
        floor,
        Wanted(floors=3, at_most=300),
        details={"Lloyd steps a linear": n_steps / n_linears},
    )


def _linears(sizes: Architecture, device: torch.device) -> Iterator[tuple[Tensor, SiteStatistics]]:
    for block in range(sizes.n_blocks):
        for number, shape in enumerate(sizes.linears().values()):
            yield random_linear(shape, device, 7 * block + number)


def _quantize(vq: NoWagVQ, weight: Tensor, statistics: SiteStatistics, seed: int) -> tuple[Work, int]:
    """What ``NoWagVQ.compress`` does, step by step: it does not say how many Lloyd steps it took."""
    target = vq.target(weight, statistics)
    values = kmeans.subvectors(target.values, vq.d)
    metric = kmeans.subvector_weights(target.importance, vq.d)
    found = kmeans.kmeans(
        values,
        metric,
        1 << vq.index_bits,
        init=vq.init,
        restarts=vq.restarts,
        iterations=vq.iterations,
        tolerance=vq.tolerance,
        generator=np.random.default_rng(seed),
    )
    codebook = found.codewords.half()
    nearest, _ = kmeans.assign(values, metric, codebook.float())
    CodebookWeight.of(weight.shape[1], nearest.T.contiguous(), codebook, target.row_norms, target.column_norms)
    points = Points(values, metric, codebook)
    # Every step searches all codewords; so do the first assignment, and the last one to the codebook in fp16.
    searches = points.assignment_work().times(found.n_steps + 2)
    return take_all([searches, points.start_work(len(codebook))]), found.n_steps


def _timed(
    name: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    floor: float,
    device: torch.device,
    calls: int = 1,
) -> Comparison:
    """Both in turn, ``calls`` at a time: one call of a small kernel is over before the clock can tell."""

    def repeated(work: Callable[[], object]) -> Callable[[], None]:
        def all_calls() -> None:
            for _ in range(calls):
                work()

        return all_calls

    row = compare(name, repeated(ours), repeated(plain), 5, calls * floor, FLOORS, device)
    return replace(row, ours=row.ours / calls, plain=(row.plain or 0.0) / calls, floor=floor)


def _scaled(
    name: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    times: float,
    floor: float,
    device: torch.device,
) -> Comparison:
    """A plain formulation that does only a part of the work, ``times`` of which are the whole."""
    row = compare(name, ours, plain, 3, floor, FLOORS, device)
    return replace(row, plain=times * (row.plain or 0.0), ratios=tuple(times * ratio for ratio in row.ratios))


def _require(kernel: str, holds: "Tensor | list[bool | Tensor]") -> None:
    """Hold a kernel to its twin.

    Raises:
        NowagError: if it is wrong anywhere.
    """
    if not all(map(bool, holds)) if isinstance(holds, list) else not bool(holds.all()):
        raise NowagError(f"{kernel}: differs from its plain torch twin; run the tests of nowag_exp/ops on this machine")
