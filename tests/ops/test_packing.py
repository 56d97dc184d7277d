import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.ops.packing import pack, packed_size, unpack


def test_five_values_of_three_bits_worked_by_hand() -> None:
    # 1, 2, 3, 4, 5 are 001, 010, 011, 100, 101; from the lowest bit up the stream is 100 010 110 001 101, so the bytes
    # are 11 010 001 (0xD1) and 0 101 100 0 (0x58).
    packed = pack(torch.tensor([1, 2, 3, 4, 5]), 3)
    assert packed.tolist() == [0b11010001, 0b01011000]


@given(width=st.integers(1, 16), data=st.data())
def test_every_width_gives_the_values_back_in_exactly_that_many_bits(width: int, data: st.DataObject) -> None:
    values = torch.tensor(data.draw(st.lists(st.integers(0, 2**width - 1), max_size=50)), dtype=torch.int32)
    packed = pack(values, width)
    assert len(packed) == packed_size(len(values), width) == -(-len(values) * width // 8)
    assert torch.equal(unpack(packed, width, len(values)), values)


@given(width=st.integers(1, 16), values=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=30))
def test_the_stream_is_the_number_that_python_would_write(width: int, values: list[int]) -> None:
    values = [value % 2**width for value in values]
    number = sum(value << (i * width) for i, value in enumerate(values))
    expected = number.to_bytes(-(-len(values) * width // 8), "little")
    assert bytes(pack(torch.tensor(values), width).tolist()) == expected


def test_zero_bits_hold_zeros_and_nothing_else() -> None:
    assert pack(torch.zeros(9, dtype=torch.int64), 0).numel() == 0
    assert unpack(torch.zeros(0, dtype=torch.uint8), 0, 9).tolist() == [0] * 9
    with pytest.raises(ValueError, match="do not fit 0 bits"):
        pack(torch.tensor([1]), 0)


@pytest.mark.parametrize("value", [-1, 8])
def test_a_value_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="do not fit 3 bits"):
        pack(torch.tensor([0, value]), 3)


def test_widths_and_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="a width of 0 to 16 bits is needed; got 17"):
        pack(torch.tensor([0]), 17)
    with pytest.raises(ValueError, match="5 values of 3 bits take 2 bytes; got 3"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 5)
