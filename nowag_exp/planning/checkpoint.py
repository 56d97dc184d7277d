"""How large a compressed checkpoint is: the formats say it, once a slice has shown which layout a method stores."""

import functools
import math
from dataclasses import replace

import torch

from nowag_exp.config import Experiment
from nowag_exp.ledger import Ledger
from nowag_exp.memory import DTYPE_BYTES
from nowag_exp.methods import Method
from nowag_exp.methods.vector_quantization import VectorQuantizer
from nowag_exp.models import Architecture
from nowag_exp.planning.prices import made_up_statistics, slice_shape, unseeded


def checkpoint_bytes(experiment: Experiment, sizes: Architecture) -> float:
    """Of all tensors that ``checkpoint.save`` writes, headers of files aside."""
    linears = sizes.linears().values()
    packed = sum(stored_bytes(unseeded(experiment.method), shape, experiment.model.dtype) for shape in linears)
    others = sizes.n_parameters - sizes.n_blocks * sizes.block_weights
    return float(sizes.n_blocks * packed + others * DTYPE_BYTES[experiment.model.dtype])


@functools.cache
def stored_bytes(method: Method, shape: tuple[int, int], dtype: str) -> int:
    """Of one compressed linear."""
    quick = method
    if isinstance(method, VectorQuantizer):  # Two codewords are enough to see the layout.
        quick = replace(method, iterations=1, restarts=1, bits=1 / method.d)
    small = slice_shape(quick, shape)
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        weight = torch.randn(small).to(getattr(torch, dtype))
        seen = made_up_statistics(method, small[1], torch.device("cpu"))
        compressed = quick.compress({"linear": weight}, seen, Ledger())["linear"]
    layout = {**compressed.layout(), "d_out": shape[0], "d_in": shape[1]}
    if isinstance(method, VectorQuantizer):
        layout["index_bits"] = method.index_bits
    if "n_kept" in layout:
        layout["n_kept"] = round(layout["n_kept"] * math.prod(shape) / math.prod(small))
    if "group_size" in layout and getattr(method, "group_size", None) is None:
        layout["group_size"] = shape[1]  # One grid a row.
    n_bytes = 0
    for spec in type(compressed).check(layout).values():
        assert isinstance(spec.dtype, torch.dtype)
        n_bytes += math.prod(spec.shape) * spec.dtype.itemsize
    return n_bytes
