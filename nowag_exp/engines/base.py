"""The contract of an engine, and what those with several workers share."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from nowag_exp.engines.site import Done, SiteJob, SiteResult, detached
from nowag_exp.methods.base import FactorCache, Method

AHEAD = 2
"""Sites a worker that are under way at a time: one to work on and one to begin when that is done."""

T = TypeVar("T")


class Engine(ABC):
    """Compresses sites one independent of the other."""

    def check(self) -> None:
        """Find out whether it can be used.

        Raises:
            RequestError: if it is not installed, saying what to do.
        """
        return

    @abstractmethod
    def run(self, method: Method, jobs: Iterator[SiteJob]) -> Iterator[SiteResult]:
        """Compress each site; results are in the order of the jobs, and do not depend on how many workers there are.

        Jobs are taken as there is room for them, at most :data:`AHEAD` a worker before the first of them is given back,
        so that memory holds a few sites and never a model. Factors of Hessians go to the cache of the job's statistics.

        Raises:
            NowagError: naming the linears, when it is the turn of a site that failed; no further job is taken.
        """


def in_order(
    method: Method,
    jobs: Iterator[SiteJob],
    n_workers: int,
    start: Callable[[SiteJob], T],
    wait: Callable[[T], Done],
) -> Iterator[SiteResult]:
    """Keep so many workers busy, and give their results in the order of the jobs.

    Args:
        method: of all jobs.
        jobs: taken as there is room.
        n_workers: that work at a time.
        start: hands a job that holds nothing open to a worker.
        wait: for what was started.
    """
    running: deque[tuple[FactorCache, T]] = deque()

    def first() -> SiteResult:
        factors, started = running.popleft()
        done = wait(started)
        for name, factor in done.factors.items():
            factors[name] = factor
        return done.result

    for job in jobs:
        running.append((job.factors, start(detached(method, job))))
        if len(running) == AHEAD * n_workers:
            yield first()
    while running:
        yield first()
