"""Where the kept weights of a pruned matrix are: one bit each, or one number for each group of an N:M pattern."""

import functools
import math

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from nowag_exp.ops.packing import pack, packed_size, unpack
from nowag_exp.patterns import NOfM, parse_pattern

LARGEST_TABLE_GROUP = 16
"""N:M groups up to this size are numbered through a table of all their ``2**M`` masks; larger ones take a bitmask."""


def position_bits(pattern: str) -> tuple[int, int]:
    """``(bits, positions)``: how many bits tell which of how many consecutive positions are kept.

    A group of N:M has ``C(M, N)`` possible masks, so its number takes ``⌈log2 C(M, N)⌉`` bits: 3 for 2:4 (0.75 a
    weight), 7 for 4:8 (0.875), 2 for 1:4 (0.5), none for N:N. Anything else takes a bit for each position.
    """
    numbered = _numbered(pattern)
    if numbered is None:
        return 1, 1
    return (math.comb(numbered.m, numbered.n) - 1).bit_length(), numbered.m


def _numbered(pattern: str) -> NOfM | None:
    """The pattern if its groups are numbered, one of a single position, 1:1, among them; ``None`` for a bitmask."""
    n_of_m = parse_pattern(pattern)
    return n_of_m if n_of_m is not None and n_of_m.m <= LARGEST_TABLE_GROUP else None


def positions_size(n_weights: int, pattern: str) -> int:
    """Bytes that the positions take."""
    bits, group = position_bits(pattern)
    return packed_size(n_weights // group, bits)


def pack_positions(keep: Bool[Tensor, "d_out d_in"], pattern: str) -> UInt8[Tensor, " bytes"]:
    """Pack a mask, row by row.

    Raises:
        ValueError: if the mask is not of this pattern.
    """
    bits, group = position_bits(pattern)
    bitmask = _numbered(pattern) is None
    if bitmask and keep.device.type == "cpu":
        return torch.from_numpy(np.packbits(keep.reshape(-1).numpy(), bitorder="little"))  # A tenth of the time.
    if bitmask:
        return pack(keep.reshape(-1).to(torch.uint8), 1)
    places = torch.arange(group, device=keep.device, dtype=torch.int32)
    masks = (keep.reshape(-1, group).to(torch.int32) << places).sum(dim=1)
    allowed = _masks(pattern).to(keep.device)
    numbers = torch.searchsorted(allowed, masks)
    if not torch.equal(allowed[numbers.clamp(max=len(allowed) - 1)], masks):
        raise ValueError(f"the mask does not keep {pattern} of its weights in every group")
    return pack(numbers, bits)


def unpack_positions(packed: UInt8[Tensor, " bytes"], pattern: str, d_out: int, d_in: int) -> Bool[Tensor, "_ _"]:
    """Undo :func:`pack_positions`.

    Raises:
        ValueError: if a number stands for no mask of the pattern, or there are too few or too many bytes.
    """
    bits, group = position_bits(pattern)
    bitmask = _numbered(pattern) is None
    if bitmask and packed.device.type == "cpu" and len(packed) == packed_size(d_out * d_in, 1):
        mask = np.unpackbits(packed.numpy(), count=d_out * d_in, bitorder="little")
        return torch.from_numpy(mask.view(np.bool_)).reshape(d_out, d_in)
    numbers = unpack(packed, bits, d_out * d_in // group)
    if bitmask:
        return numbers.bool().reshape(d_out, d_in)
    allowed = _masks(pattern).to(packed.device)
    if len(numbers) and int(numbers.max()) >= len(allowed):
        raise ValueError(f"position number {int(numbers.max())} is none of the {len(allowed)} masks of {pattern}")
    places = torch.arange(group, device=packed.device, dtype=torch.int64)
    return ((allowed[numbers][:, None] >> places) & 1).bool().reshape(d_out, d_in)


@functools.cache
def _masks(pattern: str) -> Tensor:
    """All masks of an N:M group as ascending integers, position ``i`` being bit ``i``."""
    n_of_m = parse_pattern(pattern)
    assert n_of_m is not None
    candidates = np.arange(1 << n_of_m.m, dtype=np.int64)
    return torch.from_numpy(candidates[np.bitwise_count(candidates) == n_of_m.n])
