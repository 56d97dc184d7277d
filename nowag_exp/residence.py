"""Whether a model is loaded or streamed from its checkpoint, and where hidden states wait: by what fits into memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from nowag_exp.config import Experiment
from nowag_exp.errors import RequestError
from nowag_exp.memory import device_bytes, hidden_bytes, host_bytes, weights_bytes
from nowag_exp.models import Architecture, Placement

SHARE = 0.9
"""Part of the free memory that may be planned with: an estimate is an estimate."""

CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of a container's memory, versions 2 and 1."""


@dataclass(frozen=True)
class Residence:
    """Where the weights and hidden states of an experiment are.

    Attributes:
        streamed: whether blocks are read one at a time, instead of all at the start.
        gpus: bytes that may be taken of each GPU that the model is spread over; ``None`` if it is on one device.
        placement: where hidden states wait between two blocks.
        reason: both, and the estimates they follow from, in one line.
    """

    streamed: bool
    gpus: Mapping[int, int] | None
    placement: Placement
    reason: str


def choose(
    experiment: Experiment, sizes: Architecture, device: torch.device, n_waiting: int, held_bytes: float
) -> Residence:
    """Follow ``runtime.offload`` and ``runtime.activations``; ``auto`` streams what does not fit.

    Args:
        experiment: with its method, windows and runtime.
        sizes: of its model.
        device: where it computes.
        n_waiting: tokens whose hidden states wait between two blocks, at most.
        held_bytes: what a model takes that is loaded now and will be used or freed.

    Raises:
        RequestError: if not even one block fits, saying how much is needed and what takes it.
    """
    gpus = _spread(experiment, sizes, device, held_bytes)
    streamed = is_streamed(experiment, sizes, device, held_bytes)
    whole, by_blocks = (_peak(experiment, sizes, device, each) for each in (False, True))
    usable = _usable(device, held_bytes)
    if streamed and by_blocks > usable:
        raise RequestError(
            f"model {experiment.model.label}: one block at a time takes about {_gb(by_blocks)} on {device}, of which "
            f"{_gb(usable)} are free; lower runtime.batch_tokens (now {experiment.runtime.batch_tokens}), use "
            + ("runtime.device=cpu" if device.type == "cuda" else "model.dtype=bfloat16")
            + ", or free memory"
        )
    how = "streamed block by block" if streamed else f"spread over {len(gpus)} GPUs" if gpus else "loaded"
    placement = experiment.runtime.activations
    hidden, room = hidden_bytes(experiment, sizes, n_waiting), free_bytes(torch.device("cpu"))
    if placement == "auto":
        placement = "disk" if hidden > room / 2 else "cpu"
    where = {"device": f"on {device}", "cpu": "in main memory", "disk": "in a file"}[placement]
    reason = (
        f"{experiment.model.label}: {how} (runtime.offload={experiment.runtime.offload}); estimates: {_gb(whole)} "
        f"loaded, {_gb(by_blocks)} streamed, {_gb(usable)} usable on {device}; hidden states, {_gb(hidden)}, {where}"
    )
    return Residence(streamed, gpus, placement, reason)


def is_streamed(experiment: Experiment, sizes: Architecture, device: torch.device, held_bytes: float = 0.0) -> bool:
    """What ``runtime.offload`` means here; arguments as in :func:`choose`."""
    if experiment.runtime.offload == "auto":
        fits = _peak(experiment, sizes, device, streamed=False) <= _usable(device, held_bytes)
        return not fits and _spread(experiment, sizes, device, held_bytes) is None
    return experiment.runtime.offload == "always"


def _spread(
    experiment: Experiment, sizes: Architecture, device: torch.device, held_bytes: float
) -> Mapping[int, int] | None:
    """What may be taken of each GPU, if the model fits into all of them together but not into the first."""
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if n_gpus < 2 or experiment.runtime.offload == "always":
        return None
    whole = _peak(experiment, sizes, device, streamed=False)
    if whole <= _usable(device, held_bytes):
        return None
    # What a stage holds besides the weights may come up on each of them.
    besides = whole - weights_bytes(experiment, sizes)
    room = {
        gpu: int(SHARE * (free_bytes(torch.device("cuda", gpu)) + held_bytes / n_gpus) - besides)
        for gpu in range(n_gpus)
    }
    return room if min(room.values()) > 0 and sum(room.values()) >= weights_bytes(experiment, sizes) else None


def _peak(experiment: Experiment, sizes: Architecture, device: torch.device, streamed: bool) -> float:
    if device.type == "cuda":
        return device_bytes(experiment, sizes, streamed)
    return host_bytes(experiment, sizes, False, streamed)


def _usable(device: torch.device, held_bytes: float) -> float:
    free = free_bytes(device) + held_bytes
    # What the process holds already is not free, but part of the estimate.
    return SHARE * (free if device.type == "cuda" else free + psutil.Process().memory_info().rss)


def free_bytes(device: torch.device) -> float:
    """Memory that can be had on a device now; in a container no more than it may take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    free = psutil.virtual_memory().available
    for limit, used in CGROUP_FILES:
        try:
            left = int(Path(limit).read_text(encoding="ascii")) - int(Path(used).read_text(encoding="ascii"))
        except (OSError, ValueError):  # No such version here, or "max".
            continue
        free = min(free, left)
    return float(free)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
