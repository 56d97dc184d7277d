"""Statistics of the activations at each input site, streamed over batches."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nowag_exp.errors import NowagError
from nowag_exp.methods.base import Needs, SiteStatistics
from nowag_exp.models.blocks import CausalLM, HeardAll
from nowag_exp.models.sites import SITES
from nowag_exp.ops.moments import add_products, mirror

VERSION = 2
"""Raised when the same tokens would give other statistics, here or by another walk over the blocks."""

BlockStatistics = Mapping[str, SiteStatistics]
"""By name of the input site."""


class Accumulator:
    """Adds up ``Σ x_j²``, and ``Σ x xᵀ`` if it is needed, over the batches that a site sees.

    Squares and the sum over one batch are fp32 whatever the model's dtype (a square of an fp16 activation may not fit
    fp16); the running sum of the squares over batches is fp64, so its error does not grow with the number of tokens.
    The running ``Σ x xᵀ`` is fp32, as in the papers that use it: for 28672 inputs it takes 3.3 GB as it is.
    """

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.n_tokens = 0
        self.sum_of_squares: Tensor | None = None
        self.second_moment: Tensor | None = None

    def make_room(self, d_in: int, device: torch.device) -> None:
        """Take the memory of the running sums, so that :meth:`add` needs none."""
        if self.needs is Needs.HESSIAN and self.second_moment is None:
            self.second_moment = torch.zeros(d_in, d_in, device=device)

    def add(self, rows: Float[Tensor, "tokens d_in"], squares: Float[Tensor, " d_in"]) -> None:
        """Add the activations of one batch, in fp32, and the sum of their squares."""
        self.n_tokens += len(rows)
        self.sum_of_squares = squares if self.sum_of_squares is None else self.sum_of_squares + squares
        if self.second_moment is not None:
            add_products(self.second_moment, rows)

    def result(self, where: str, why_not_finite: Callable[[], str]) -> SiteStatistics:
        """What was seen.

        Args:
            where: names the linears.
            why_not_finite: says why activations are NaN or infinite, and what to do.

        Raises:
            NowagError: if nothing was seen, or something was not finite.
        """
        if self.sum_of_squares is None or self.n_tokens == 0:
            raise NowagError(
                f"{where}: no token reached this input site during calibration, so there is nothing to compress it by; "
                "the model's blocks are not called the way this version of transformers calls them"
            )
        if not bool(torch.isfinite(self.sum_of_squares).all()):
            bad = int((~torch.isfinite(self.sum_of_squares)).sum())
            raise NowagError(
                f"{where}: {bad} of {len(self.sum_of_squares)} input columns have NaN or infinite activations during "
                f"calibration; {why_not_finite()}"
            )
        if self.second_moment is not None:
            mirror(self.second_moment)
        return SiteStatistics(self.n_tokens, self.sum_of_squares, self.second_moment)


class SiteListener:
    """Adds up what reaches the input sites of a block, once the block was run to its end.

    A run that memory did not suffice for has reached some sites and not others: it must not count at any.

    Args:
        needs: which statistics.
        to_its_end: whether the block is run beyond its last input site, for its output.
    """

    def __init__(self, needs: Needs, to_its_end: bool = True) -> None:
        self.accumulators = {site.name: Accumulator(needs) for site in SITES}
        self._to_its_end = to_its_end
        self._heard: dict[str, Tensor] = {}

    def hear(self, site: str, activations: Float[Tensor, "*batch d_in"]) -> None:
        """Take note of the activations of one batch at one site.

        Raises:
            HeardAll: at the last site, unless the block is to run to its end.
        """
        self._heard[site] = activations.detach()
        if not self._to_its_end and site == SITES[-1].name:
            raise HeardAll

    def add(self) -> None:
        """Add up what was heard, at all sites or, if memory does not suffice for it, at none."""
        rows = {site: heard.reshape(-1, heard.shape[-1]).float() for site, heard in self._heard.items()}
        squares = {site: torch.square(of_site).sum(dim=0).double() for site, of_site in rows.items()}
        for site, of_site in rows.items():
            self.accumulators[site].make_room(of_site.shape[1], of_site.device)
        self._heard.clear()
        for site, of_site in rows.items():
            self.accumulators[site].add(of_site, squares[site])

    def forget(self) -> None:
        """What was heard does not count."""
        self._heard.clear()

    def results(self, block: int, why_not_finite: Callable[[], str]) -> BlockStatistics:
        """What was added up at each site.

        Args:
            block: its index.
            why_not_finite: says why activations are NaN or infinite, and what to do.

        Raises:
            NowagError: naming the linears, if that is nothing or not finite.
        """
        return {
            site.name: self.accumulators[site.name].result(" and ".join(site.names(block)), why_not_finite)
            for site in SITES
        }


@contextmanager
def listening(model: CausalLM, block: int, needs: Needs, to_its_end: bool) -> Iterator[SiteListener]:
    """Listen at the block's input sites while the body runs: one hook a site, on the first of its linears."""
    listener = SiteListener(needs, to_its_end)
    hooks = []
    for site in SITES:
        first_linear = next(iter(model.linears(block, site).values()))

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], site: str = site.name) -> None:
            listener.hear(site, inputs[0])

        hooks.append(first_linear.register_forward_pre_hook(hook))
    try:
        yield listener
    finally:
        for handle in hooks:
            handle.remove()


def to_tensors(statistics: list[BlockStatistics]) -> dict[str, Tensor]:
    """Flatten for the store."""
    tensors: dict[str, Tensor] = {}
    for index, block in enumerate(statistics):
        for site, seen in block.items():
            tensors[f"{index}.{site}.sum_of_squares"] = seen.sum_of_squares.cpu()
            tensors[f"{index}.{site}.n_tokens"] = torch.tensor(seen.n_tokens)
            if seen.second_moment is not None:
                tensors[f"{index}.{site}.second_moment"] = seen.second_moment.cpu()
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], n_blocks: int) -> list[BlockStatistics]:
    """Undo :func:`to_tensors`."""
    return [
        {
            site.name: SiteStatistics(
                int(tensors[f"{index}.{site.name}.n_tokens"]),
                tensors[f"{index}.{site.name}.sum_of_squares"],
                tensors.get(f"{index}.{site.name}.second_moment"),
            )
            for site in SITES
        }
        for index in range(n_blocks)
    ]
