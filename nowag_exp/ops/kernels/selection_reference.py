"""Selection in plain torch: what the others are tested against, and what runs where they cannot."""

from jaxtyping import Float
from torch import Tensor


def kth_highest(scores: Float[Tensor, "groups n"], k: int) -> Float[Tensor, "groups 1"]:
    """Find the ``k``-th highest score of each group, ``k`` from 1."""
    return scores.kthvalue(scores.shape[1] - k + 1, dim=1, keepdim=True).values
