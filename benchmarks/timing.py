"""Times of two ways to do the same, taken in turn so that a noisy machine is noisy for both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Median seconds of both, and the median of ``plain / ours`` over the rounds."""

    name: str
    ours: float
    plain: float
    ratio: float
    wanted: float

    def line(self) -> str:
        verdict = "ok" if self.ratio >= self.wanted else "BELOW"
        return f"{self.name:<52} {self.ours:8.3f} {self.plain:8.3f} {self.ratio:8.2f} {self.wanted:8.2f}  {verdict}"


HEADER = f"{'':<52} {'ours, s':>8} {'plain, s':>8} {'ratio':>8} {'wanted':>8}"


def compare(
    name: str, ours: Callable[[], object], plain: Callable[[], object], rounds: int, wanted: float
) -> Comparison:
    """Time both in turn, in alternating order, after a round that is not counted."""
    seconds: dict[Callable[[], object], list[float]] = {ours: [], plain: []}
    for number in range(rounds + 1):
        for work in (ours, plain) if number % 2 else (plain, ours):
            start = time.perf_counter()
            work()
            if number:
                seconds[work].append(time.perf_counter() - start)
    ratios = [slow / fast for fast, slow in zip(seconds[ours], seconds[plain], strict=True)]
    return Comparison(
        name, statistics.median(seconds[ours]), statistics.median(seconds[plain]), statistics.median(ratios), wanted
    )
