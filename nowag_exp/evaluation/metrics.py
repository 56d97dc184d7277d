"""One number, and everything that says what it is."""

import math
import sys
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nowag_exp.errors import NowagError

LARGEST_LOG = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Metric:
    """One number, and what it is.

    Attributes:
        name: ``perplexity``: per token; ``kl``: divergence from the dense model, nats per token; ``top1_agreement``:
            share of tokens at which both would choose the same; ``noise_floor_kl`` and ``noise_floor_top1_agreement``:
            the same between the dense model in bfloat16 and in float32; ``acc``, ``acc_norm``: share of items answered
            right; ``flips``: share of items answered right by either this or the dense model, but not by both.
        protocol: text and context length, ``wikitext2@4096``, or suite and task, ``paper_zero_shot/piqa``.
        value: the number.
        standard_error: of ``value``, over windows or items; ``None`` if there is only one.
        token_hash: sha256 of the windows that the model was given, or of the requests and right answers of the items.
        n: windows or items.
        values: one per window, of which ``value`` is a mean (of perplexity: losses, nats per token); ``None`` for
            items, which have a file of their own.
        details: what else fixes the number: versions, dtype, few-shot count.
    """

    name: str
    protocol: str
    value: float
    standard_error: float | None
    token_hash: str
    n: int
    values: list[float] | None
    details: dict[str, Any]


def mean_and_error(values: Float[Tensor, " n"]) -> tuple[float, float | None]:
    """Mean ``m`` and its standard error ``s / √n``, ``s`` the sample standard deviation; no error for one value."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None
    return mean, float(values.std(correction=1)) / math.sqrt(len(values))


def perplexity(losses: Float[Tensor, " windows"]) -> tuple[float, float | None]:
    """Perplexity and its standard error from the windows' losses.

    ``exp(m)`` with ``m`` the mean loss, the log of perplexity; its error is ``exp(m) · e`` with ``e`` the standard
    error of ``m`` (delta method). Windows count alike since they have equally many tokens.
    """
    mean, error = mean_and_error(losses)
    if mean > LARGEST_LOG:
        raise NowagError(f"evaluation: the mean loss is {mean:.0f} nats a token, whose perplexity no number can hold")
    return math.exp(mean), None if error is None else math.exp(mean) * error
