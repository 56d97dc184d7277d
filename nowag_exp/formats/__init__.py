"""How a compressed weight is held; the tensors that are counted are the tensors that are kept."""

from nowag_exp.formats.base import CompressedWeight
from nowag_exp.formats.dense import DenseWeight
from nowag_exp.formats.sparse import SparseWeight

__all__ = ["CompressedWeight", "DenseWeight", "SparseWeight"]
