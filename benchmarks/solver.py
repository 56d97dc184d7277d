"""SparseGPT and GPTQ over linears of SmolLM2: stacked rows and a compiled loop against a Python loop per linear.

The floor is, of each site, one Cholesky factorisation (``d³ / 3`` operations) and the compensation of the columns to
the right of each column (``d²`` of each row), both at the rate of a matrix product.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.bench import Bench, take_all
from benchmarks.timing import Comparison, Wanted, Work
from nowag_exp.models import SITES
from nowag_exp.ops.factor import hessian_factor
from nowag_exp.ops.solver import Pruning, Rounding, solve

BLOCK = 128
BITS = 4
GROUP = 64
DAMPENING = 0.01

SPARSEGPT = Pruning(0.5, None, BLOCK)
GPTQ = Rounding(BITS, GROUP, symmetric=False, search="minmax", static_groups=False)

Site = tuple[Mapping[str, Tensor], Tensor]


def plain_factor(hessian: Tensor) -> Tensor:
    """As the papers say it: dampen, invert through a Cholesky factor, take the factor of the inverse."""
    damped = hessian + DAMPENING * hessian.diagonal().mean() * torch.eye(len(hessian), device=hessian.device)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def plain_mask(weights: Tensor, diagonal: Tensor) -> Tensor:
    scores = weights**2 / diagonal**2
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().argsort()[: int(scores.numel() * SPARSEGPT.sparsity)]] = False
    return mask.reshape(scores.shape)


def plain_grid(group: Tensor) -> tuple[Tensor, Tensor]:
    low, high = group.amin(dim=1).clamp(max=0), group.amax(dim=1).clamp(min=0)
    scale = ((high - low) / (2**BITS - 1)).half().float()
    return scale, (-low / scale).round()


def plain_solve(weight: Tensor, hessian: Tensor, *, prune: bool) -> Tensor:
    """Algorithm 1 of both papers, for one linear: a Python loop over columns, in lazy blocks."""
    factor = plain_factor(hessian)
    result = weight.clone()
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        block, inner = result[:, start:end].clone(), factor[start:end, start:end]
        errors = torch.zeros_like(block)
        mask = plain_mask(block, inner.diagonal()) if prune else None
        for j in range(end - start):
            column = block[:, j].clone()
            if mask is not None:
                compressed = column * mask[:, j]
            else:
                if j % GROUP == 0:
                    scale, zero = plain_grid(block[:, j : j + GROUP])
                compressed = (((column / scale).round() + zero).clamp(0, 2**BITS - 1) - zero) * scale
            errors[:, j] = (column - compressed) / inner[j, j]
            block[:, j:] -= errors[:, j : j + 1] @ inner[j : j + 1, j:]
            block[:, j] = compressed
        result[:, start:end] = block
        result[:, end:] -= errors @ factor[start:end, end:]
    return result


def random_hessian(width: int, generator: torch.Generator) -> Tensor:
    """``2/n Σ x xᵀ`` of correlated inputs of different sizes."""
    mixing = torch.eye(width) + torch.randn(width, width, generator=generator) / width**0.5
    inputs = torch.randn(2 * width, width, generator=generator) @ mixing * torch.rand(width, generator=generator)
    return inputs.T @ inputs / width


def solver_work(rows: int, width: int) -> Work:
    """Of one site."""
    return Work(product=width**3 / 3 + float(rows) * width**2, moved=8.0 * rows * width + 4.0 * width**2)


def run(bench: Bench) -> Iterator[Comparison]:
    model, generator = bench.model, torch.Generator().manual_seed(0)
    sites: list[Site] = []
    for block in range(bench.n_blocks):
        for site in SITES:
            weights = {name: linear.weight.data.float() for name, linear in model.linears(block, site).items()}
            sites.append((weights, random_hessian(next(iter(weights.values())).shape[1], generator)))

    def ours(sites: list[Site], *, prune: bool) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for weights, hessian in sites:
            solutions = solve(
                weights,
                hessian_factor(hessian, DAMPENING),
                dead=hessian.diagonal() == 0,
                pruning=SPARSEGPT if prune else None,
                rounding=None if prune else GPTQ,
                order=None,
            )
            values |= {name: solution.values for name, solution in solutions.items()}
        return values

    def plain(sites: list[Site], *, prune: bool) -> dict[str, Tensor]:
        return {
            name: plain_solve(weight, hessian, prune=prune)
            for weights, hessian in sites
            for name, weight in weights.items()
        }

    work = take_all(solver_work(sum(map(len, weights.values())), len(hessian)) for weights, hessian in sites)
    for name, prune in (("SparseGPT, 50%", True), ("GPTQ, 4 bits in groups of 64", False)):
        check_same(ours(sites[: len(SITES)], prune=prune), plain(sites[: len(SITES)], prune=prune))
        yield bench.compare(
            f"{name}, from H to values, against a loop a linear",
            lambda prune=prune: ours(sites, prune=prune),  # type: ignore[misc]
            lambda prune=prune: plain(sites, prune=prune),  # type: ignore[misc]
            work,
            Wanted(ratio=4),
            (3, 3),
        )


def check_same(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> None:
    """The same but for weights that lie so close to a threshold that the rounding of a sum decides."""
    for name, values in ours.items():
        other = (values - plain[name]).abs() > 1e-3 * values.abs().mean()
        assert float(other.float().mean()) < 0.01, name
