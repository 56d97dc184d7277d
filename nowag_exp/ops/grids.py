"""Integer grids: which values a weight may take when it is rounded to a few bits (GPTQ, arXiv 2210.17323, section 4).

A group of consecutive weights of one row shares a scale ``s`` and a zero point ``z``; a group size of ``None`` makes
the whole row one group. A weight becomes ``code = clamp(round(w / s) + z, 0, 2^bits - 1)`` and stands for
``(code - z) · s``, so zero is always on the grid. Halves are rounded to the even code.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

Search = Literal["minmax", "mse"]

FEWEST_BITS, MOST_BITS = 2, 8

HIGHEST_SCALE = torch.finfo(torch.float16).max
LOWEST_SCALE = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
"""The smallest positive number of fp16."""

SHRINKAGES = tuple(1 - step / 100 for step in range(81))
"""The fractions of a group's range that the search for the least squared error tries, widest first."""

IN_CACHE = 2**16
"""Weights whose grids are searched at a time on the CPU: the 81 tries then read the cache and not the memory."""


class Grid(NamedTuple):
    """Scales and zero points of a weight's groups.

    Attributes:
        scales: positive; fp32, but each is a number that fp16 holds exactly.
        zeros: the code that stands for zero; ``2^(bits - 1)`` throughout if the grid is symmetric.
    """

    scales: Float[Tensor, "d_out groups"]
    zeros: Integer[Tensor, "d_out groups"]


def fit_grid(
    weight: Float[Tensor, "d_out d_in"], bits: int, group_size: int | None, symmetric: bool, search: Search
) -> Grid:
    """The grid of each group: over its range, or over the fraction of its range with the least squared error.

    Asymmetric: the range is ``[min(w, 0), max(w, 0)]``, ``s = (max - min) / (2^bits - 1)``, ``z = round(-min / s)``.
    Symmetric: the range is ``± max |w|`` and ``z = 2^(bits - 1)``. ``s`` is rounded to fp16 before anything is computed
    from it; a group of zeros gets ``s = 1``.

    Args:
        weight: of one linear, or of several that were stacked: rows have nothing to do with each other.
        bits: of a code, from 2 to 8.
        group_size: consecutive inputs that share a scale; ``None`` for the whole row.
        symmetric: whether the zero point is fixed to the middle.
        search: ``minmax`` takes the whole range; ``mse`` shrinks it in steps of a hundredth down to a fifth and keeps,
            for each group, the widest range of those with the least ``Σ (w - Q(w))²``.

    Raises:
        ValueError: if ``bits`` is out of range, the group size does not divide the width, or no scale that fp16 can
            hold covers the weights.
    """
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"bits must be from {FEWEST_BITS} to {MOST_BITS}, got {bits}")
    groups = _grouped(weight.float(), group_size)
    if search == "minmax":
        return _fit_range(*_range(groups, symmetric), bits, symmetric)
    rows_at_once = max(1, IN_CACHE // weight.shape[1]) if weight.device.type == "cpu" else max(1, len(weight))
    parts = [_fit_least_squares(part, bits, symmetric) for part in groups.split(rows_at_once)]
    return Grid(torch.cat([part.scales for part in parts]), torch.cat([part.zeros for part in parts]))


def quantize(
    weight: Float[Tensor, "d_out d_in"], grid: Grid, bits: int, group_size: int | None
) -> UInt8[Tensor, "d_out d_in"]:
    """Codes of the nearest values on the grid: ``clamp(round(w / s) + z, 0, 2^bits - 1)``."""
    groups = _grouped(weight.float(), group_size)
    codes = (groups / grid.scales[:, :, None]).round_().add_(grid.zeros[:, :, None]).clamp_(0, 2**bits - 1)
    return codes.to(torch.uint8).reshape(weight.shape)


def dequantize(codes: Integer[Tensor, "d_out d_in"], grid: Grid, group_size: int | None) -> Float[Tensor, "d_out d_in"]:
    """Values of the codes, ``(code - z) · s`` in fp32: an exact difference and a single product, so that whoever stores
    codes and scales reproduces it bit for bit.
    """
    steps = _grouped(codes.float(), group_size) - grid.zeros[:, :, None]
    return steps.mul_(grid.scales[:, :, None]).reshape(codes.shape)


def _grouped(weight: Float[Tensor, "d_out d_in"], group_size: int | None) -> Float[Tensor, "d_out groups size"]:
    d_out, d_in = weight.shape
    size = d_in if group_size is None else group_size
    if size < 1 or d_in % size:
        raise ValueError(f"a group size of {size} does not divide the input width {d_in}")
    return weight.reshape(d_out, d_in // size, size)


def _range(
    groups: Float[Tensor, "d_out groups size"], symmetric: bool
) -> tuple[Float[Tensor, "d_out groups"], Float[Tensor, "d_out groups"]]:
    low, high = groups.amin(dim=2).clamp_(max=0), groups.amax(dim=2).clamp_(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    return low, high


def _fit_range(
    low: Float[Tensor, "d_out groups"], high: Float[Tensor, "d_out groups"], bits: int, symmetric: bool
) -> Grid:
    top = 2**bits - 1
    exact = (high - low) / top
    scales = exact.half().float().clamp_(min=LOWEST_SCALE).masked_fill_(exact == 0, 1.0)
    if not torch.isfinite(scales).all():
        raise ValueError(
            f"a group of weights needs a scale of {float(exact.nan_to_num(torch.inf).max()):g}, "
            f"but fp16 holds none above {HIGHEST_SCALE:g}"
        )
    zeros = torch.full_like(scales, 2 ** (bits - 1)) if symmetric else (-low / scales).round_().clamp_(0, top)
    return Grid(scales, zeros.to(torch.uint8))


def _fit_least_squares(groups: Float[Tensor, "d_out groups size"], bits: int, symmetric: bool) -> Grid:
    """Try every shrinkage on all groups at once; only the best grid so far and its errors are kept."""
    low, high = _range(groups, symmetric)
    best = _fit_range(low, high, bits, symmetric)
    least = _error(groups, best, bits)
    for shrinkage in SHRINKAGES[1:]:
        tried = _fit_range(low * shrinkage, high * shrinkage, bits, symmetric)
        error = _error(groups, tried, bits)
        better = error < least
        least = torch.where(better, error, least)
        best = Grid(*(torch.where(better, new, old) for new, old in zip(tried, best, strict=True)))
    return best


def _error(groups: Float[Tensor, "d_out groups size"], grid: Grid, bits: int) -> Float[Tensor, "d_out groups"]:
    """``‖w - Q(w)‖₂`` of each group, in few passes."""
    scales, zeros = grid.scales[:, :, None], grid.zeros[:, :, None].float()
    steps = (groups / scales).round_().clamp_(-zeros, 2**bits - 1 - zeros)
    return torch.linalg.vector_norm(steps.mul_(scales).sub_(groups), dim=2)
