"""Where hidden states wait between two blocks: where the model computes, in main memory, or in a file."""

import mmap
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from nowag_exp.files import naming_full_disk

Placement = Literal["device", "cpu", "disk"]

SHARE = 0.5
"""Part of the free main memory that hidden states may take before they go to a file."""

CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where a container's memory is limited, versions 2 and 1: limit, use, and what of it is cache that gives way."""


class Activations:
    """Hidden states of batches, all of which pass a block before any passes the next one.

    128 sequences of 4096 tokens of a 70B model are 8.6 GB in 16 bits: in main memory by default (pinned beside a GPU,
    for faster copies), in a memory-mapped file where that is short.

    Args:
        batches: input of the first block, a tensor a batch.
        device: where the model computes.
        placement: where they wait.
        folder: of the file, which has no name, so that nothing stays behind; ``None`` for the system's.
        n_bytes: of all of them, if that is known.

    Raises:
        DiskFullError: if there is no room for the file.
    """

    def __init__(
        self,
        batches: Iterable[Float[Tensor, "_ _ hidden"]],
        device: torch.device,
        placement: Placement,
        folder: Path | None = None,
        n_bytes: int | None = None,
    ) -> None:
        self.device, self.placement = device, placement
        if placement == "disk":
            self._waiting, self._file, self._spans = _in_file(batches, folder, n_bytes)
        else:
            self._waiting = [self._place(batch) for batch in batches]

    def __len__(self) -> int:
        return len(self._waiting)

    def __getitem__(self, index: int) -> Float[Tensor, "rows context hidden"]:
        """A batch, on the device."""
        waiting = self._waiting[index]
        if self.placement == "disk":
            hidden = waiting.to(self.device, copy=True)
            self._forget(index)
            return hidden
        return waiting.to(self.device, non_blocking=True)

    def __setitem__(self, index: int, hidden: Float[Tensor, "rows context hidden"]) -> None:
        """Replace a batch by what a block made of it."""
        if self.placement == "device" or (self.placement == "cpu" and hidden.device.type == "cpu"):
            self._waiting[index] = hidden
            return
        # Into the same memory: pinning is slow. Reading it back is ordered after this by the device's stream; so what
        # comes from another GPU takes the way over this one.
        self._waiting[index].copy_(hidden.to(self.device), non_blocking=self.placement == "cpu")
        if self.placement == "disk":
            self._forget(index)

    def tensors(self) -> list[Float[Tensor, "rows context hidden"]]:
        """All of them, in main memory; those in the file are read as they are used."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return [waiting.cpu() for waiting in self._waiting]

    def _place(self, batch: Tensor) -> Tensor:
        if self.placement == "device":
            return batch.to(self.device)
        kept = batch.cpu()
        return kept.pin_memory() if self.device.type == "cuda" else kept

    def _forget(self, index: int) -> None:
        """Give the memory of a batch back; the file keeps what is in it."""
        if hasattr(mmap, "MADV_DONTNEED"):  # Linux, where it leaves shared pages to the page cache.
            self._file.madvise(mmap.MADV_DONTNEED, *self._spans[index])


def _in_file(
    batches: Iterable[Tensor], folder: Path | None, n_bytes: int | None
) -> tuple[list[Tensor], mmap.mmap, list[tuple[int, int]]]:
    """Write batches to a file, each from the start of a page on; give them mapped, the map, and where each one is."""
    folder = folder or Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    spans: list[tuple[int, int]] = []
    kinds: list[tuple[torch.dtype, torch.Size]] = []
    # Written, not mapped and filled: a full disk is then an error, and not the end of the process.
    with naming_full_disk(folder, n_bytes), tempfile.TemporaryFile(dir=folder) as file:
        for batch in batches:
            file.seek(-file.tell() % mmap.ALLOCATIONGRANULARITY, 1)
            spans.append((file.tell(), batch.nbytes))
            kinds.append((batch.dtype, batch.shape))
            file.write(batch.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0)
    waiting = [
        torch.frombuffer(mapped, dtype=dtype, count=shape.numel(), offset=start).view(shape)
        for (start, _), (dtype, shape) in zip(spans, kinds, strict=True)
    ]
    return waiting, mapped, spans


def free_bytes(device: torch.device) -> float:
    """Memory that can be had on a device now; in a container no more than it may take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    free = psutil.virtual_memory().available
    for folder, limit, used, cache in CGROUPS:
        try:
            left = int(Path(folder, limit).read_text(encoding="ascii"))
            left -= int(Path(folder, used).read_text(encoding="ascii"))
            lines = Path(folder, "memory.stat").read_text(encoding="ascii").splitlines()
            left += next(int(line.split()[1]) for line in lines if line.startswith(f"{cache} "))
        except (OSError, ValueError, StopIteration):  # No such version here, or "max".
            continue
        free = min(free, left)
    return float(free)


def short_of(n_bytes: int) -> Placement:
    """Where so many bytes wait if nobody says where: in main memory, or in a file if it is short."""
    return "disk" if n_bytes > SHARE * free_bytes(torch.device("cpu")) else "cpu"
