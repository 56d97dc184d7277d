"""Times of two ways to do the same, taken in turn so that a noisy machine is noisy for both; and what bounds them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch

Unit = Literal["s", "MB", ""]


class Rates(NamedTuple):
    """What the machine does at best, measured in the same run.

    Attributes:
        product: operations a second of an fp32 matrix product; a multiply-add is two.
        half_product: the same in bfloat16.
        scalar: operations a second of fp32 multiply-adds on vectors in registers, outside matrix products.
        bandwidth: bytes a second, read or written.
    """

    product: float
    half_product: float
    scalar: float
    bandwidth: float


class Work(NamedTuple):
    """What cannot be spared, whoever does it.

    Attributes:
        product: operations in fp32 matrix products.
        scalar: other operations in fp32.
        moved: bytes that must be read or written once.
    """

    product: float = 0.0
    scalar: float = 0.0
    moved: float = 0.0

    def floor(self, rates: Rates) -> float:
        """Least seconds: arithmetic and memory traffic at their full rates, one behind the other's back."""
        return max(self.product / rates.product + self.scalar / rates.scalar, self.moved / rates.bandwidth)

    def times(self, n: int) -> "Work":
        """The same ``n`` times."""
        return Work(n * self.product, n * self.scalar, n * self.moved)


class Wanted(NamedTuple):
    """What a comparison must reach; ``None`` for what is not asked for.

    Attributes:
        ratio: plain over ours, at least.
        floors: ours over the floor, at most.
        at_most: ours.
    """

    ratio: float | None = None
    floors: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Ours and the plain formulation, side by side.

    Attributes:
        name: the same in every run that can be compared.
        ours: median of the rounds, in ``unit``.
        plain: likewise; ``None`` if there is no plain formulation.
        ratios: ``plain / ours`` of each round; without a plain formulation the floor over ours.
        floor: the least that the machine could take; ``None`` if nothing bounds it.
        wanted: what must be reached.
        unit: of all values.
        details: figures that explain it, by name.
    """

    name: str
    ours: float
    plain: float | None
    ratios: tuple[float, ...]
    floor: float | None
    wanted: Wanted = field(default_factory=Wanted)
    unit: Unit = "s"
    details: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Median of :attr:`ratios`, if there is something that ours is held against."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def floors(self) -> float | None:
        """How many times its floor ours takes."""
        return self.ours / self.floor if self.floor else None

    @property
    def is_reached(self) -> bool:
        """Whether it is what was wanted."""
        ratio, floors, at_most = self.wanted
        return (
            (ratio is None or (self.ratio is not None and self.ratio >= ratio))
            and (floors is None or (self.floors is not None and self.floors <= floors))
            and (at_most is None or self.ours <= at_most)
        )


def compare(
    name: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    rounds: int,
    floor: float | None,
    wanted: Wanted,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> Comparison:
    """Time both in turn, in alternating order, after a round that is not counted."""
    taken: dict[Callable[[], object], list[float]] = {ours: [], plain: []}
    for number in range(rounds + 1):
        for work in (ours, plain) if number % 2 else (plain, ours):
            spent = seconds(work, device)
            if number:
                taken[work].append(spent)
    ratios = tuple(slow / fast for fast, slow in zip(taken[ours], taken[plain], strict=True))
    return Comparison(name, statistics.median(taken[ours]), statistics.median(taken[plain]), ratios, floor, wanted)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the work is done, on a GPU as well."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_rate(amount: float, work: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """``amount`` over the seconds of the fastest round, after one that is not counted."""
    work()
    return amount / min(seconds(work, device) for _ in range(rounds))
