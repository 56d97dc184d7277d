"""How a compressed weight is held; the tensors that are counted are the tensors that are kept."""

from nowag_exp.formats.base import CompressedWeight, FormatError, TensorSpec, count_bits
from nowag_exp.formats.codebook import CodebookWeight
from nowag_exp.formats.dense import DenseWeight
from nowag_exp.formats.integer import IntegerWeight, SparseIntegerWeight
from nowag_exp.formats.sparse import SparseWeight, half_dtype

FORMATS: dict[str, type[CompressedWeight]] = {
    cls.kind: cls for cls in (DenseWeight, SparseWeight, CodebookWeight, IntegerWeight, SparseIntegerWeight)
}
"""By the name that files use."""

__all__ = [
    "FORMATS",
    "CodebookWeight",
    "CompressedWeight",
    "DenseWeight",
    "FormatError",
    "IntegerWeight",
    "SparseIntegerWeight",
    "SparseWeight",
    "TensorSpec",
    "count_bits",
    "half_dtype",
]
