"""Packing indices of n bits, and decompressing each format, on a matrix of Llama-2-7B's down_proj.

The plain formulation works on bits: a row of booleans a value, packed by numpy. The floor reads what is packed and
writes what is not, or the other way round.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.timing import Comparison, Wanted, Work
from nowag_exp.formats import CodebookWeight, CompressedWeight, IntegerWeight, SparseWeight
from nowag_exp.ops.grids import fit_grid, quantize
from nowag_exp.ops.packing import pack, unpack

D_OUT, D_IN, D, GROUP, BITS = 4096, 11008, 6, 64, 4
WIDTHS = (3, 4, 12)


def plain_pack(values: Tensor, width: int) -> Tensor:
    """The bits of each value, lowest first."""
    bits = values.numpy()[:, None] >> np.arange(width, dtype=np.int32) & 1
    return torch.from_numpy(np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little"))


def plain_unpack(packed: Tensor, width: int, n_values: int) -> Tensor:
    """Undo :func:`plain_pack`."""
    bits = np.unpackbits(packed.numpy(), bitorder="little", count=n_values * width).reshape(n_values, width)
    return torch.from_numpy((bits.astype(np.int32) << np.arange(width, dtype=np.int32)).sum(axis=1, dtype=np.int32))


def plain_codebook(weight: CodebookWeight) -> Tensor:
    groups = -(-weight.d_in // weight.d)
    indices = plain_unpack(weight.indices, weight.index_bits, weight.d_out * groups)
    values = weight.codebook.float()[indices].reshape(weight.d_out, -1)[:, : weight.d_in]
    assert weight.row_norms is not None
    assert weight.column_norms is not None
    return values * weight.row_norms.float()[:, None] * weight.column_norms.float()


def plain_integer(weight: IntegerWeight) -> Tensor:
    codes = plain_unpack(weight.codes, weight.bits_per_code, weight.d_out * weight.d_in)
    grouped = codes.reshape(weight.d_out, -1, weight.group_size).float()
    grid = weight.grid
    return ((grouped - grid.zeros[..., None].float()) * grid.scales[..., None]).reshape(weight.shape)


def plain_sparse(weight: SparseWeight) -> Tensor:
    """A bitmask and the kept values."""
    mask = np.unpackbits(weight.positions.numpy(), bitorder="little", count=weight.d_out * weight.d_in).astype(bool)
    dense = torch.zeros(weight.d_out * weight.d_in, dtype=weight.values.dtype)
    dense[torch.from_numpy(mask)] = weight.values
    return dense.reshape(weight.shape)


def run(bench: Bench) -> Iterator[Comparison]:
    rows = D_OUT if bench.full else D_OUT // 8
    generator = torch.Generator().manual_seed(0)
    for width in WIDTHS:
        n_values = rows * D_IN // 4
        values = torch.randint(1 << width, (n_values,), generator=generator, dtype=torch.int32)
        packed = pack(values, width)
        assert torch.equal(packed, plain_pack(values, width))
        assert torch.equal(unpack(packed, width, n_values), plain_unpack(packed, width, n_values))
        work = Work(moved=values.nbytes + packed.nbytes)
        yield bench.compare(
            f"packing integers of {width} bits, against bits by numpy",
            lambda values=values, width=width: pack(values, width),  # type: ignore[misc]
            lambda values=values, width=width: plain_pack(values, width),  # type: ignore[misc]
            work,
            Wanted(ratio=2),
        )
        yield bench.compare(
            f"unpacking integers of {width} bits, against bits by numpy",
            lambda packed=packed, width=width, n=n_values: unpack(packed, width, n),  # type: ignore[misc]
            lambda packed=packed, width=width, n=n_values: plain_unpack(packed, width, n),  # type: ignore[misc]
            work,
            Wanted(ratio=2),
        )
    for name, weight, plain in formats(rows, D_IN, generator):
        values = weight.decompress()
        assert torch.equal(values, plain())
        work = Work(moved=weight.bits / 8 + values.nbytes)
        row = bench.compare(
            f"decompressing {name}, against bits by numpy", weight.decompress, plain, work, Wanted(ratio=1)
        )
        yield replace(row, details={"weights/s": values.numel() / row.ours})


def formats(
    rows: int, columns: int, generator: torch.Generator
) -> Iterator[tuple[str, CompressedWeight, Callable[[], Tensor]]]:
    """A weight in each format that is not dense, and how it is decompressed plainly."""
    weight = torch.randn(rows, columns, generator=generator)
    codebook = torch.randn(4096, D, generator=generator).half()
    indices = torch.randint(4096, (rows, -(-columns // D)), generator=generator)
    norms = torch.rand(rows, generator=generator), torch.rand(columns, generator=generator)
    quantized = CodebookWeight.of(columns, indices, codebook, *norms)
    yield "a codebook of 4096 by 6", quantized, lambda: plain_codebook(quantized)
    grid = fit_grid(weight, BITS, GROUP, symmetric=False, search="minmax")
    rounded = IntegerWeight.of(quantize(weight, grid, BITS, GROUP), grid, BITS, symmetric=False)
    yield f"{BITS} bits in groups of {GROUP}", rounded, lambda: plain_integer(rounded)
    pruned = SparseWeight.from_mask(weight, weight > 0, "unstructured", torch.float16)
    yield "50% kept, a bitmask", pruned, lambda: plain_sparse(pruned)
