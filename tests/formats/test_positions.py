"""Positions of every N:M pattern: stored, counted and read back."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from nowag_exp.formats import SparseWeight, count_bits
from nowag_exp.formats.folder import FolderWriter
from nowag_exp.formats.header import data_bytes

LARGEST = 64


def bits_of_a_group(n: int, m: int) -> int:
    """Of its positions; by trying powers of two, for groups that are numbered."""
    return m if m > 16 else next(bits for bits in itertools.count() if 2**bits >= math.comb(m, n))


@pytest.mark.parametrize("m", range(1, LARGEST + 1))
def test_that_every_n_of_m_is_stored_in_the_bits_counted_and_comes_back_bit_for_bit(m: int) -> None:
    rows, groups = 3, 8  # Whole bytes whatever the pattern.
    for n in range(1, m + 1):
        weight = torch.randn(rows, groups * m, generator=torch.Generator().manual_seed(n)).half()
        order = torch.rand(rows, groups, m, generator=torch.Generator().manual_seed(m)).argsort(dim=2)
        keep = (order < n).reshape(weight.shape)
        held = SparseWeight.from_mask(weight, keep, f"{n}:{m}", torch.float16)
        expected = rows * groups * (bits_of_a_group(n, m) + 16 * n)
        assert held.bits == count_bits(SparseWeight.check(held.layout())) == expected
        again = SparseWeight.restore(held.layout(), held.tensors())
        assert torch.equal(again.decompress(), torch.where(keep, weight, 0))


@pytest.mark.parametrize("pattern", ["1:1", "2:2", "16:16", "17:17", "64:64", "1:64", "2:4"])
def test_that_a_folder_has_the_bytes_that_were_counted_of_a_pattern(pattern: str, tmp_path: Path) -> None:
    n, m = map(int, pattern.split(":"))
    keep = (torch.arange(8 * m) % m < n).expand(3, -1)
    held = SparseWeight.from_mask(torch.ones(3, 8 * m, dtype=torch.float16), keep, pattern, torch.float16)
    writer = FolderWriter(tmp_path)
    writer.add_weight("linear", held)
    writer.finish({}, [])
    assert 8 * data_bytes(tmp_path / "model.safetensors") == held.bits
