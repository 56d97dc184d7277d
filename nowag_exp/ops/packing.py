"""Integers of 0 to 16 bits in exactly that many bits, without gaps.

The packed bytes are one little-endian bit stream: value ``i`` of width ``b`` occupies bits ``i·b`` to ``(i+1)·b - 1``,
bit ``k`` of the stream being bit ``k mod 8`` of byte ``k // 8``; the last byte is filled with zeros. Eight values
fill ``b`` whole bytes, so both directions work on eight columns of values at a time, on any device.
"""

import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

MAX_WIDTH = 16
PERIOD = 8
"""Values after which the stream is at a byte boundary again, whatever the width."""


def packed_size(n_values: int, width: int) -> int:
    """Bytes that ``n_values`` integers of ``width`` bits take."""
    return -(-n_values * width // 8)


def pack(values: Integer[Tensor, " n"], width: int) -> UInt8[Tensor, " bytes"]:
    """Pack non-negative integers below ``2**width``.

    Raises:
        ValueError: if the width is not in 0 to 16, or a value does not fit.
    """
    _check_width(width)
    if len(values) and (int(values.min()) < 0 or int(values.max()) >> width):
        raise ValueError(f"values from {int(values.min())} to {int(values.max())} do not fit {width} bits")
    columns = _padded(values.to(torch.int32), PERIOD).reshape(-1, PERIOD)
    packed = torch.zeros(len(columns), width, dtype=torch.int32, device=values.device)
    for column in range(PERIOD):
        for byte in range(column * width // 8, -(-(column + 1) * width // 8)):
            shift = column * width - 8 * byte
            packed[:, byte] |= (columns[:, column] << shift if shift >= 0 else columns[:, column] >> -shift) & 255
    return packed.to(torch.uint8).reshape(-1)[: packed_size(len(values), width)]


def unpack(packed: UInt8[Tensor, " bytes"], width: int, n_values: int) -> Integer[Tensor, " n"]:
    """Undo :func:`pack`, as int32.

    Raises:
        ValueError: if the width is not in 0 to 16, or there are not as many bytes as the values take.
    """
    _check_width(width)
    if len(packed) != packed_size(n_values, width):
        raise ValueError(
            f"{n_values} values of {width} bits take {packed_size(n_values, width)} bytes; got {len(packed)}"
        )
    n_periods = -(-n_values // PERIOD)
    columns = torch.zeros(n_periods, PERIOD, dtype=torch.int32, device=packed.device)
    if width:
        stream = _padded(packed, width).reshape(n_periods, width).to(torch.int32)
        for column in range(PERIOD):
            for byte in range(column * width // 8, -(-(column + 1) * width // 8)):
                shift = column * width - 8 * byte
                columns[:, column] |= stream[:, byte] >> shift if shift >= 0 else stream[:, byte] << -shift
        columns &= (1 << width) - 1
    return columns.reshape(-1)[:n_values]


def _padded(values: Tensor, multiple: int) -> Tensor:
    missing = -len(values) % multiple
    return torch.nn.functional.pad(values, (0, missing)) if missing else values


def _check_width(width: int) -> None:
    if not 0 <= width <= MAX_WIDTH:
        raise ValueError(f"a width of 0 to {MAX_WIDTH} bits is needed; got {width}")
