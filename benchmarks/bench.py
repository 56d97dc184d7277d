"""What the parts of a run share: how thorough it is, and what is made once and only if a part asks for it."""

import functools
from collections.abc import Callable, Iterable

import torch

from benchmarks.timing import Comparison, Rates, Wanted, Work, compare
from nowag_exp.models import CausalLM

CPU = torch.device("cpu")


class Bench:
    """One run on the CPU.

    Args:
        full: many rounds over the whole model, instead of a few over its first blocks.
    """

    def __init__(self, full: bool) -> None:
        self.full = full
        self.rates_were_measured = False

    @functools.cached_property
    def model(self) -> CausalLM:
        """SmolLM2-135M in fp32."""
        from nowag_exp.compose import compose as compose_config
        from nowag_exp.config import build_experiment

        return build_experiment(compose_config([])).model.load(CPU)

    @functools.cached_property
    def rates(self) -> Rates:
        """Of this machine, measured when first asked for."""
        from benchmarks.rates import measure

        self.rates_were_measured = True
        return measure(CPU)

    @property
    def n_blocks(self) -> int:
        """Blocks that the parts which need no forward work on."""
        return self.model.n_blocks if self.full else 4

    def compare(
        self,
        name: str,
        ours: Callable[[], object],
        plain: Callable[[], object],
        work: Work,
        wanted: Wanted,
        rounds: tuple[int, int] = (3, 5),
    ) -> Comparison:
        """Time both in turn; ``rounds`` of a quick and of a full run."""
        return compare(name, ours, plain, rounds[self.full], work.floor(self.rates), wanted)


def take_all(works: Iterable[Work]) -> Work:
    """The sum."""
    product = scalar = moved = 0.0
    for work in works:
        product, scalar, moved = product + work.product, scalar + work.scalar, moved + work.moved
    return Work(product, scalar, moved)
