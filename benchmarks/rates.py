"""What this machine does at best: the rates that floors are made of, measured in the run that they are used in.

The fp32 rate outside matrix products is that of a loop of multiply-adds which stays in registers, compiled by the
compiler that also makes our kernels (numba here, Triton on a GPU) and run on as many threads: a few polynomials are
evaluated side by side at each point, so that no multiply-add waits for the one before it. It is at most the rate of a
matrix product of the same library quality; where it is higher, the matrix product was the slower code.
"""

from typing import no_type_check

import numpy as np
import torch
from numba import njit

from benchmarks.timing import Rates, best_rate
from nowag_exp.ops.kernels.threads import in_threads, task_edges

CHAINS = 4
STEPS = 32
"""Multiply-adds of each chain at a point."""


@njit(fastmath={"contract"})
@no_type_check
def _eight_steps(v, a, b):
    v = v * a + b
    v = v * a + b
    v = v * a + b
    v = v * a + b
    v = v * a + b
    v = v * a + b
    v = v * a + b
    return v * a + b


@njit(fastmath={"contract"})
@no_type_check
def _chain(v, a, b):
    """``STEPS`` multiply-adds, written out: a loop inside would keep the loop over points from being vectorised."""
    return _eight_steps(_eight_steps(_eight_steps(_eight_steps(v, a, b), a, b), a, b), a, b)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
@no_type_check
def _polynomials(points, a, b, out):
    for i in range(len(points)):
        x = points[i]
        v0, v1 = _chain(x + a, a, b), _chain(x - a, a, b)
        v2, v3 = _chain(x * a, a, b), _chain(x * b, a, b)
        out[i] = (v0 + v1) + (v2 + v3)


def scalar_rate_cpu(n_points: int = 1 << 12, repeats: int = 256) -> float:
    """Operations a second of the multiply-add loop, on as many threads as torch uses; the points stay in the cache."""
    points = np.linspace(0, 1, n_points, dtype=np.float32)
    outs = [np.empty_like(points) for _ in range(repeats)]

    def all_ranges() -> None:
        def work(_: int, bounds: tuple[int, int]) -> None:
            for i in range(*bounds):
                _polynomials(points, np.float32(0.5), np.float32(0.25), outs[i])

        in_threads(work, task_edges(repeats))

    return best_rate(2.0 * CHAINS * STEPS * n_points * repeats, all_ranges, torch.device("cpu"))


def scalar_rate_cuda(device: torch.device) -> float:
    """The same by a Triton kernel, enough programs to fill the card."""
    from benchmarks.rates_triton import BLOCK, OPERATIONS, polynomials

    programs = 132 * 64
    out = torch.empty(programs * BLOCK, device=device)
    return best_rate(float(OPERATIONS) * programs * BLOCK, lambda: polynomials[(programs,)](out, 0.5, 0.25), device)


def measure(device: torch.device, size: int | None = None, n_values: int | None = None) -> Rates:
    """All rates of a device, each the best of a few rounds.

    Args:
        device: to measure.
        size: of the matrices; ``None`` for 1024 on a CPU and 8192 on a GPU.
        n_values: that are copied; ``None`` for what no cache holds.
    """
    size = size or (8192 if device.type == "cuda" else 1024)
    n_values = n_values or (2**29 if device.type == "cuda" else 2**26)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        product = _product_rate(size, torch.float32, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    # Without instructions for it a CPU takes 50 times as long in bfloat16.
    half = _product_rate(size if device.type == "cuda" else size // 4, torch.bfloat16, device)
    scalar = scalar_rate_cuda(device) if device.type == "cuda" else scalar_rate_cpu()
    return Rates(product, half, scalar, _bandwidth(n_values, device))


def _product_rate(size: int, dtype: torch.dtype, device: torch.device) -> float:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator).to(device, dtype)
    b = torch.randn(size, size, generator=generator).to(device, dtype)
    out = torch.empty_like(a)
    return best_rate(2.0 * size**3, lambda: torch.mm(a, b, out=out), device)


def _bandwidth(n_values: int, device: torch.device) -> float:
    """The better of copying (a byte read and one written) and of reading alone."""
    source, target = torch.ones(n_values, device=device), torch.empty(n_values, device=device)
    n_bytes = 4.0 * n_values
    copied = best_rate(2 * n_bytes, lambda: target.copy_(source), device)
    return max(copied, best_rate(n_bytes, source.sum, device))
