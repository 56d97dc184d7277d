"""How far the dense model is from itself in another precision: a divergence below that means nothing."""

import torch
from jaxtyping import Int64
from torch import Tensor

from nowag_exp.evaluation.windows import WindowScores, last_states, score_windows
from nowag_exp.models.blocks import CausalLM
from nowag_exp.progress import Stage, Tick


def noise_floor(
    model: CausalLM, ids: Int64[Tensor, "windows context"], batch_size: int, tick: Tick, stage: Stage | None = None
) -> WindowScores:
    """The dense model in bfloat16 held against itself in float32, whatever its own dtype.

    Two passes, a block at a time, so that no second copy of the model is made.
    """
    batches = ids.split(batch_size)
    low, high = (last_states(model, batches, dtype, stage) for dtype in (torch.bfloat16, torch.float32))
    return score_windows(model, ids, low, high, tick)
