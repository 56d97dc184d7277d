"""Threads for compiled kernels that release the GIL.

Not numba's ``prange``: its OpenMP threads spin where they wait for each other, so that beside two busy processes 100
short k-means steps on 2 cores took 11.8 s with it and 2.5 s so; and it shares torch's OpenMP runtime, whose number of
threads it changes.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch


def in_threads(work: Callable[[int, tuple[int, int]], None], edges: list[int]) -> None:
    """Call ``work`` with the number and the bounds of each range between two edges, on as many threads as torch uses.

    The caller works too, and waits only for ranges that a helper has begun, so that helpers lost in a fork are not
    waited for.
    """
    ranges = deque(enumerate(pairwise(edges)))
    n_helpers = min(torch.get_num_threads(), len(ranges)) - 1

    def take() -> None:
        while True:
            try:
                number, bounds = ranges.popleft()
            except IndexError:
                return
            work(number, bounds)

    futures = [_helpers(n_helpers).submit(take) for _ in range(n_helpers)]
    take()
    for future in futures:
        if not future.cancel():
            future.result()


def task_edges(n_tasks: int) -> list[int]:
    """Split tasks into a few ranges for each thread, so that a thread that falls behind takes fewer."""
    n_ranges = min(n_tasks, 4 * torch.get_num_threads())
    return [n_tasks * i // n_ranges for i in range(n_ranges + 1)]


@cache
def _helpers(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n)
