"""Per-token perplexity over windows, with a standard error."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nowag_exp.errors import NowagError
from nowag_exp.models.blocks import CausalLM
from nowag_exp.progress import Tick

LOGITS_AT_ONCE = 2**26
"""Logits held at a time (256 MiB in fp32): a window of 8192 tokens over 128256 words would be 4 GiB."""


@dataclass(frozen=True)
class Metric:
    """One number, and what it is.

    Attributes:
        name: ``perplexity``: per token.
        protocol: text and context length, ``wikitext2@4096``.
        value: the number.
        standard_error: of ``value``; ``None`` if there is only one window.
        token_hash: sha256 of the token ids evaluated on.
        n_windows: windows.
        n_predicted: tokens predicted; the first token of a window is not.
        window_losses: mean negative log-likelihood of each window, in nats per token.
    """

    name: str
    protocol: str
    value: float
    standard_error: float | None
    token_hash: str
    n_windows: int
    n_predicted: int
    window_losses: list[float]


@torch.inference_mode()
def window_losses(
    model: CausalLM, ids: Int64[Tensor, "windows context"], batch_size: int, tick: Tick
) -> Float[Tensor, " windows"]:
    """Mean negative log-likelihood of each window, in nats per predicted token, fp64.

    Every token but the first of its window is predicted from those before it in the same window. Logits are computed
    in the model's dtype and their softmax in fp32, as transformers does.

    Raises:
        NowagError: if a loss is not finite.
    """
    losses: list[Tensor] = []
    for batch in ids.split(batch_size):
        hidden = model.last_hidden(batch)
        for window, states in zip(batch, hidden, strict=True):
            losses.append(_loss(model, states[:-1], window[1:].to(states.device)))
            tick()
    result = torch.stack(losses).cpu() / (ids.shape[1] - 1)
    bad = int((~torch.isfinite(result)).sum())
    if bad:
        raise NowagError(
            f"evaluation: {bad} of {len(result)} windows have NaN or infinite loss; "
            "check the checkpoint, or use model.dtype=bfloat16 or float32"
        )
    return result


def _loss(model: CausalLM, states: Float[Tensor, "t hidden"], targets: Int64[Tensor, " t"]) -> Float[Tensor, ""]:
    """Summed loss of one window, a slice of its tokens at a time."""
    total = torch.zeros((), dtype=torch.float64, device=states.device)
    rows = max(1, LOGITS_AT_ONCE // model.module.config.vocab_size)
    for part, wanted in zip(states.split(rows), targets.split(rows), strict=True):
        total += token_losses(model.logits(part).float(), wanted).sum().double()
    return total


def token_losses(logits: Float[Tensor, "t vocabulary"], targets: Int64[Tensor, " t"]) -> Float[Tensor, " t"]:
    """``log Σ_v exp(l_tv) - l_t,target``; overwrites the logits.

    In place, since the logits are by far the largest tensor: torch's cross_entropy makes another one, and takes 2.5
    times as long on a CPU.
    """
    wanted = logits.gather(1, targets[:, None])[:, 0]
    highest = logits.amax(dim=1, keepdim=True)
    normaliser = logits.sub_(highest).exp_().sum(dim=1).log() + highest[:, 0]
    return normaliser - wanted


def perplexity(losses: Float[Tensor, " windows"]) -> tuple[float, float | None]:
    """Perplexity and its standard error from the windows' losses.

    ``exp(m)`` with ``m`` the mean loss; its error is ``exp(m) · s / √n`` (delta method), with ``s`` the sample standard
    deviation of the ``n`` windows' losses. Windows count alike since they have equally many tokens.
    """
    value = math.exp(float(losses.mean()))
    if len(losses) < 2:
        return value, None
    return value, value * float(losses.std(correction=1)) / math.sqrt(len(losses))
