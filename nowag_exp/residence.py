"""Whether a model is loaded, spread over GPUs, or streamed from its checkpoint: by what fits into memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from nowag_exp.config import Experiment
from nowag_exp.errors import RequestError
from nowag_exp.memory import block_bytes, device_bytes, host_bytes, parts_by_block, weights_bytes
from nowag_exp.models import Architecture
from nowag_exp.models.activations import free_bytes

SHARE = 0.9
"""Part of the free memory that may be planned with: an estimate is an estimate."""

Held = Mapping[torch.device, float]
"""What a model takes of each GPU that is loaded now, and will be used again or freed."""


@dataclass(frozen=True)
class Residence:
    """Where the weights of an experiment are.

    Attributes:
        streamed: whether blocks are read one at a time, instead of all at the start.
        gpus: bytes that may be taken of each GPU that the model is spread over; ``None`` if it is on one device.
        reason: the choice, and the estimates it follows from, in one line.
    """

    streamed: bool
    gpus: Mapping[int, int] | None
    reason: str


def choose(experiment: Experiment, sizes: Architecture, device: torch.device, held: Held) -> Residence:
    """Follow ``runtime.offload``; ``auto`` spreads over GPUs what does not fit into one, and streams what fits nowhere.

    Args:
        experiment: with its method, windows and runtime.
        sizes: of its model.
        device: where it computes.
        held: what is not free, but will be.

    Raises:
        RequestError: if not even one block fits, saying how much is needed, what takes it, and what to change.
    """
    wanted, usable = experiment.runtime.offload, _usable(device, held)
    whole, by_blocks = (_peak(experiment, sizes, device, streamed) for streamed in (False, True))
    gpus = None
    if wanted == "auto" and whole > usable:
        gpus = _spread(experiment, sizes, device, held)
    streamed = wanted == "always" or (wanted == "auto" and whole > usable and gpus is None)
    if streamed and by_blocks > usable:
        parts = parts_by_block(experiment, sizes)
        shown = ", ".join(f"{name} {_gb(n_bytes)}" for name, n_bytes in parts.items())
        ways = [] if experiment.model.dtype != "float32" else ["model.dtype=bfloat16"]
        ways += (
            ["a lower runtime.batch_tokens or context_length"] if max(parts, key=parts.__getitem__) == "batch" else []
        )
        ways += ["runtime.device=cpu"] if device.type == "cuda" else []
        raise RequestError(
            f"model {experiment.model.label}: even one block at a time takes about {_gb(by_blocks)} on {device}, of "
            f"which {_gb(usable)} can be had ({shown}); free memory{''.join(f', or set {way}' for way in ways)}"
        )
    how = "streamed block by block" if streamed else f"spread over {len(gpus)} GPUs" if gpus else "loaded"
    reason = (
        f"{experiment.model.label}: {how} (runtime.offload={wanted}); estimates: {_gb(whole)} loaded, {_gb(by_blocks)} "
        f"streamed, {_gb(usable)} usable on {device}"
    )
    return Residence(streamed, gpus, reason)


def is_streamed(experiment: Experiment, sizes: Architecture, device: torch.device) -> bool:
    """What ``runtime.offload`` means here, for a plan; whether one block fits is not looked at."""
    if experiment.runtime.offload != "auto":
        return experiment.runtime.offload == "always"
    fits = _peak(experiment, sizes, device, streamed=False) <= _usable(device, {})
    return not fits and _spread(experiment, sizes, device, {}) is None


def _spread(experiment: Experiment, sizes: Architecture, device: torch.device, held: Held) -> Mapping[int, int] | None:
    """What may be taken of each GPU, if the model fits into all of them together."""
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if n_gpus < 2:
        return None
    # What a stage holds besides the weights may come up on each of them.
    besides = _peak(experiment, sizes, device, streamed=False) - weights_bytes(experiment, sizes)
    room = {gpu: int(_usable(torch.device("cuda", gpu), held) - besides) for gpu in range(n_gpus)}
    # No block is cut in two, and accelerate keeps room for the largest part: some of each stays unused.
    unused = 2 * max(block_bytes(experiment, sizes), weights_bytes(experiment, sizes) / sizes.n_blocks)
    return room if sum(max(0.0, each - unused) for each in room.values()) >= weights_bytes(experiment, sizes) else None


def _peak(experiment: Experiment, sizes: Architecture, device: torch.device, streamed: bool) -> float:
    if device.type == "cuda":
        return device_bytes(experiment, sizes, streamed)
    return host_bytes(experiment, sizes, False, streamed)


def _usable(device: torch.device, held: Held) -> float:
    # What the process holds already is not free, but part of the estimate.
    if device.type == "cuda":
        mine = sum(n_bytes for gpu, n_bytes in held.items() if gpu.index == (device.index or 0))
    else:
        mine = psutil.Process().memory_info().rss
    return SHARE * (free_bytes(device) + mine)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
