"""The multiply-add loop of :mod:`benchmarks.rates` for a GPU."""

from typing import no_type_check

import triton
import triton.language as tl

BLOCK = 1024
STEPS = 4096
OPERATIONS = 2 * 8 * STEPS
"""Of one value of the output."""


@triton.jit
@no_type_check
def polynomials(out, a, b, block: tl.constexpr = BLOCK, steps: tl.constexpr = STEPS):
    index = tl.program_id(0) * block + tl.arange(0, block)
    x = index.to(tl.float32) * 1e-9
    v0, v1, v2, v3 = x + a, x + b, x - a, x - b
    v4, v5, v6, v7 = x * a, x * b, x + a * b, x - a * b
    for _ in range(steps):
        v0 = v0 * a + b
        v1 = v1 * a + b
        v2 = v2 * a + b
        v3 = v3 * a + b
        v4 = v4 * a + b
        v5 = v5 * a + b
        v6 = v6 * a + b
        v7 = v7 * a + b
    tl.store(out + index, v0 + v1 + v2 + v3 + v4 + v5 + v6 + v7)
