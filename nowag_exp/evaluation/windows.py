"""What is measured on windows of tokens, all on one forward pass: their loss, and the distance from the dense model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nowag_exp.errors import NowagError
from nowag_exp.evaluation.metrics import Metric, mean_and_error, perplexity
from nowag_exp.models.batch import Batch
from nowag_exp.models.blocks import CausalLM
from nowag_exp.progress import Stage, Tick

LOGITS_AT_ONCE = 2**26
"""Logits held at a time (256 MiB in fp32): a window of 8192 tokens over 128256 words would be 4 GiB."""


@dataclass(frozen=True)
class WindowScores:
    """Means over the predicted tokens of each window, fp64.

    Attributes:
        losses: negative log-likelihood, in nats.
        kl: ``KL(dense ‖ model)``, in nats; ``None`` if there was no dense model to hold it against.
        agreement: share of tokens at which both have the same most likely next token; ``None`` likewise.
    """

    losses: Float[Tensor, " windows"]
    kl: Float[Tensor, " windows"] | None
    agreement: Float[Tensor, " windows"] | None


def last_states(
    model: CausalLM,
    batches: Iterable[Int64[Tensor, "_ context"]],
    dtype: torch.dtype | None = None,
    stage: Stage | None = None,
) -> Iterator[Float[Tensor, "predicting hidden"]]:
    """Input of the head, window by window, at the positions that predict a token of it: all but the last.

    Args:
        model: as it is now.
        batches: windows that are computed together.
        dtype: another precision than the model's.
        stage: shows how far a streamed model is.
    """
    for hidden in model.last_hidden([Batch(ids) for ids in batches], dtype, stage):
        yield from hidden[:, :-1]


@torch.inference_mode()
def score_windows(
    model: CausalLM,
    ids: Int64[Tensor, "windows context"],
    states: Iterable[Float[Tensor, "predicting hidden"]],
    dense: Iterable[Float[Tensor, "predicting hidden"]] | None,
    tick: Tick,
) -> WindowScores:
    """Loss of each window, and how far the model is from the dense one there.

    Every token but the first of its window is predicted from those before it in the same window. Logits are computed
    in the model's dtype and their softmax in fp32, as transformers does. The dense model's logits are those of its own
    states, so the divergence is over the whole vocabulary: nothing is cut off.

    Args:
        model: its head turns states into logits, the dense ones too, so it must be the dense model's.
        ids: the windows.
        states: of the model, from :func:`last_states`.
        dense: of the dense model.
        tick: called after each window.

    Raises:
        NowagError: if a loss is not finite.
    """
    rows = max(1, LOGITS_AT_ONCE // model.module.config.vocab_size)
    sums: list[Tensor] = []
    for window, own, original in zip(ids, states, repeat(None) if dense is None else dense, strict=False):
        total = torch.zeros(3, dtype=torch.float64, device=model.device)
        for start in range(0, len(own), rows):
            part = slice(start, start + rows)
            logits = model.logits(own[part].to(model.device)).float()
            dense_logits = None if original is None else model.logits(original[part].to(model.device)).float()
            total += _score(logits, dense_logits, window[1:][part].to(model.device))
        sums.append(total)
        tick()
    means = torch.stack(sums).cpu() / (ids.shape[1] - 1)
    assert len(means) == len(ids)
    bad = int((~torch.isfinite(means[:, 0])).sum())
    if bad:
        raise NowagError(
            f"evaluation: {bad} of {len(means)} windows have NaN or infinite loss; {model.why_not_finite()}"
        )
    losses, kl, agreement = means.T.contiguous()
    return WindowScores(losses, None, None) if dense is None else WindowScores(losses, kl, agreement)


def _score(
    logits: Float[Tensor, "t vocabulary"],
    dense: Float[Tensor, "t vocabulary"] | None,
    targets: Int64[Tensor, " t"],
) -> Float[Tensor, "3"]:
    """Summed loss, divergence and agreement of some tokens, fp64; overwrites both kinds of logits."""
    if dense is None:
        loss = token_losses(logits, targets).double().sum()
        return torch.stack([loss, torch.zeros_like(loss), torch.zeros_like(loss)])
    wanted = logits.gather(1, targets[:, None])[:, 0]
    agreement = logits.argmax(dim=1) == dense.argmax(dim=1)
    # KL = Σ_v p_v ((log p_v + log Z_p) - (log q_v + log Z_q)) - log Z_p + log Z_q: the large parts cancel first.
    difference = dense - logits
    normaliser, dense_normaliser = _log_normaliser(logits), _log_normaliser(dense)
    expected = torch.linalg.vecdot(dense, difference) / dense.sum(dim=1)
    kl = expected - (dense_normaliser - normaliser)
    return torch.stack([(normaliser - wanted).double().sum(), kl.double().sum(), agreement.double().sum()])


def token_losses(logits: Float[Tensor, "t vocabulary"], targets: Int64[Tensor, " t"]) -> Float[Tensor, " t"]:
    """``log Σ_v exp(l_tv) - l_t,target``; overwrites the logits.

    In place, since the logits are by far the largest tensor: torch's cross_entropy makes another one, and takes 2.5
    times as long on a CPU.
    """
    wanted = logits.gather(1, targets[:, None])[:, 0]
    return _log_normaliser(logits) - wanted


def _log_normaliser(logits: Float[Tensor, "t vocabulary"]) -> Float[Tensor, " t"]:
    """``log Σ_v exp(l_tv)``; leaves ``exp(l_tv - max_v l_tv)`` in place of the logits."""
    highest = logits.amax(dim=1, keepdim=True)
    return logits.sub_(highest).exp_().sum(dim=1).log() + highest[:, 0]


def window_metrics(protocol: str, token_hash: str, scores: WindowScores, details: dict[str, Any]) -> list[Metric]:
    """Perplexity, and if the dense model was there ``kl`` and ``top1_agreement``."""
    value, error = perplexity(scores.losses)
    n, losses = len(scores.losses), scores.losses.tolist()
    metric = Metric("perplexity", protocol, value, error, token_hash, n, losses, details)
    return [metric, *fidelity_metrics(protocol, token_hash, scores, details)]


def fidelity_metrics(
    protocol: str, token_hash: str, scores: WindowScores, details: dict[str, Any], prefix: str = ""
) -> list[Metric]:
    """``kl`` and ``top1_agreement``; none if the dense model was not there."""
    found = {"kl": scores.kl, "top1_agreement": scores.agreement}
    return [
        Metric(prefix + name, protocol, *mean_and_error(values), token_hash, len(values), values.tolist(), details)
        for name, values in found.items()
        if values is not None
    ]
