"""Selection for the CPU by numpy's introselect, which is vectorised (AVX-512, AVX2, NEON), as torch's is not."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def kth_highest(scores: Float[Tensor, "groups n"], k: int) -> Float[Tensor, "groups 1"]:
    """See :func:`nowag_exp.ops.kernels.selection_reference.kth_highest`."""
    position = scores.shape[1] - k
    partitioned = np.partition(scores.numpy(), position, axis=1)
    return torch.from_numpy(np.ascontiguousarray(partitioned[:, position : position + 1]))
