"""NoWag-P masks over the linears of SmolLM2: selection against sorting.

The floor reads every weight once and writes its mask; normalising and selecting read it again.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.timing import Comparison, Wanted, Work
from nowag_exp.methods import NoWagP, SiteStatistics
from nowag_exp.models import SITES


def plain_mask(scores: Tensor, sparsity: float) -> Tensor:
    """The plain formulation: sort all scores of the matrix, cut off the lowest."""
    order = torch.argsort(scores.flatten())
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[order[: int(scores.numel() * sparsity)]] = False
    return mask.reshape(scores.shape)


def plain_n_of_m_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """The plain formulation of N:M: sort each group."""
    order = torch.argsort(scores.reshape(-1, m), dim=1)
    mask = torch.ones(scores.numel() // m, m, dtype=torch.bool, device=scores.device)
    return mask.scatter_(1, order[:, : m - n], False).reshape(scores.shape)


def run(bench: Bench) -> Iterator[Comparison]:
    model, generator = bench.model, torch.Generator().manual_seed(0)
    sites: list[tuple[Mapping[str, Tensor], SiteStatistics]] = []
    for block in range(bench.n_blocks):
        for site in SITES:
            weights = {name: linear.weight.data for name, linear in model.linears(block, site).items()}
            width = next(iter(weights.values())).shape[1]
            sites.append((weights, SiteStatistics(4096, torch.rand(width, generator=generator, dtype=torch.float64))))
    unstructured = NoWagP(name="nowag_p", normalise="both", sparsity=0.5, pattern="unstructured", propagate="dense")
    two_four = NoWagP(name="nowag_p", normalise="both", sparsity=0.5, pattern="2:4", propagate="dense")

    def ours(method: NoWagP) -> None:
        for weights, statistics in sites:
            for weight in weights.values():
                method.select(method.score(weight, statistics))

    def plain(method: NoWagP) -> None:
        for weights, statistics in sites:
            for weight in weights.values():
                scores = method.score(weight, statistics)
                plain_mask(scores, 0.5) if method is unstructured else plain_n_of_m_mask(scores, 2, 4)

    weight = sites[0][0]["model.layers.0.self_attn.q_proj"]
    scores = unstructured.score(weight, sites[0][1])
    assert torch.equal(unstructured.select(scores).mask, plain_mask(scores, 0.5))
    n_weights = sum(weight.numel() for weights, _ in sites for weight in weights.values())
    work = Work(moved=n_weights * (4.0 + 1.0))
    for pattern, method, ratio in (("50%", unstructured, 5.0), ("2:4", two_four, 1.0)):
        yield bench.compare(
            f"NoWag-P, score and mask at {pattern}, against argsort",
            lambda method=method: ours(method),  # type: ignore[misc]
            lambda method=method: plain(method),  # type: ignore[misc]
            work,
            Wanted(ratio=ratio),
        )
