"""How far the dense model is from itself in another precision: a divergence below that means nothing."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nowag_exp.evaluation.windows import WindowScores, score_windows
from nowag_exp.models.blocks import CausalLM
from nowag_exp.progress import Tick


@torch.inference_mode()
def noise_floor(model: CausalLM, ids: Int64[Tensor, "windows context"], batch_size: int, tick: Tick) -> WindowScores:
    """The dense model in bfloat16 held against itself in float32, whatever its own dtype.

    Two passes a window, a block at a time, so that no second copy of the model is made.
    """

    def states(dtype: torch.dtype) -> Iterator[Float[Tensor, "predicting hidden"]]:
        for batch in ids.split(batch_size):
            yield from model.last_hidden_in(dtype, batch)[:, :-1]

    return score_windows(model, ids, states(torch.bfloat16), states(torch.float32), tick)
