"""What RTN, GPTQ and joint SparseGPT share: the settings of an integer grid, checked."""

from typing import Literal

GridSearch = Literal["minmax", "mse"]
FEWEST_BITS, MOST_BITS = 2, 8


def check_grid(bits: int, group_size: int | None) -> None:
    """Check the settings of a grid.

    Raises:
        ValueError: if one is out of range.
    """
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"bits: must be from {FEWEST_BITS} to {MOST_BITS}; got {bits}")
    if group_size is not None and group_size < 1:
        raise ValueError(f"group_size: must be at least 1 column, or null for one grid a row; got {group_size}")


def group_problem(group_size: int | None, linear: str, d_in: int) -> str | None:
    """Say so if the groups do not fill the rows of a linear."""
    if group_size is None or d_in % group_size == 0:
        return None
    divisors = [size for size in (256, 192, 128, 96, 64, 48, 32, 16, 8, 4, 2, 1) if d_in % size == 0]
    return (
        f"group_size: {group_size} does not divide the {d_in} inputs of {linear}; choose one that does "
        f"(such as {divisors[0]}), or null for one grid a row"
    )


def describe_grid(bits: int, group_size: int | None) -> str:
    """``4 bits, groups of 128``."""
    return f"{bits} bits" + ("" if group_size is None else f", groups of {group_size}")
