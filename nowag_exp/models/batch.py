"""Texts that go through the blocks together, and which of their tokens see one another."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

CONTEXT, PADDING = 0, -1
"""Branch numbers of tokens that are in no continuation."""


@dataclass(frozen=True)
class Batch:
    """Rows of tokens of one length.

    Attributes:
        ids: of the tokens.
        positions: of each token in its own text; ``None`` for 0, 1, 2, ...
        branches: 0 for the context, then 1, 2, ... for the continuations that branch off it, see :func:`sees`; ``None``
            if each token sees all before it.
    """

    ids: Int64[Tensor, "rows context"]
    positions: Int64[Tensor, "rows context"] | None = None
    branches: Int64[Tensor, "rows context"] | None = None


def sees(branches: Int64[Tensor, "batch row"]) -> Bool[Tensor, "batch row row"]:
    """Which tokens each token attends to: those of its own branch and of the context, up to itself.

    Padding sees the context too: a token that sees nothing has NaN activations, which would spread.
    """
    n = branches.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool, device=branches.device).tril()
    return causal & ((branches[:, None, :] == CONTEXT) | (branches[:, None, :] == branches[:, :, None]))
