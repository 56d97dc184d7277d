"""What RTN, GPTQ and joint SparseGPT share: the settings of an integer grid, checked."""

import math
from collections.abc import Mapping

from nowag_exp.ops.grids import FEWEST_BITS, MOST_BITS


def check_grid(bits: int, group_size: int | None) -> None:
    """Check the settings of a grid.

    Raises:
        ValueError: if one is out of range.
    """
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"bits: must be from {FEWEST_BITS} to {MOST_BITS}; got {bits}")
    if group_size is not None and group_size < 1:
        raise ValueError(f"group_size: must be at least 1 column, or null for one grid a row; got {group_size}")


def group_problem(group_size: int | None, shapes: Mapping[str, tuple[int, int]]) -> str | None:
    """Say so if the groups do not fill the rows of a linear, and which size would fill those of all."""
    odd = [(linear, d_in) for linear, (_, d_in) in shapes.items() if group_size is not None and d_in % group_size]
    if not odd:
        return None
    linear, d_in = odd[0]
    common = math.gcd(*(width for _, width in shapes.values()))
    fits = max(size for size in range(1, min(common, 256) + 1) if common % size == 0)
    return (
        f"group_size: {group_size} does not divide the {d_in} inputs of {linear}; choose one that divides all widths "
        f"of the model, such as {fits}, or null for one grid a row"
    )


def describe_grid(bits: int, group_size: int | None) -> str:
    """``4 bits, groups of 128``."""
    return f"{bits} bits" + ("" if group_size is None else f", groups of {group_size}")
