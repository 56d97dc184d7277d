"""Where hidden states wait between two blocks: where the model computes, in main memory, or in a file."""

import mmap
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nowag_exp.files import naming_full_disk

Placement = Literal["device", "cpu", "disk"]


class Activations:
    """Hidden states of batches, all of which pass a block before any passes the next one.

    128 sequences of 4096 tokens of a 70B model are 8.6 GB in 16 bits: in main memory by default (pinned beside a GPU,
    so that copies overlap with work), in a memory-mapped file where that is short.

    Args:
        batches: input of the first block, a tensor a batch.
        device: where the model computes.
        placement: where they wait.
        folder: of the file, which has no name, so that nothing stays behind; ``None`` for the system's.
    """

    def __init__(
        self,
        batches: Iterable[Float[Tensor, "_ _ hidden"]],
        device: torch.device,
        placement: Placement,
        folder: Path | None = None,
    ) -> None:
        self.device, self.placement = device, placement
        if placement == "disk":
            self._waiting, self._file, self._spans = _in_file(batches, folder)
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
        # Into the same memory: pinning is slow. Reading it back is ordered after this by the device's stream.
        self._waiting[index].copy_(hidden, non_blocking=self.placement == "cpu")
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


def _in_file(batches: Iterable[Tensor], folder: Path | None) -> tuple[list[Tensor], mmap.mmap, list[tuple[int, int]]]:
    """Write batches to a file, each from the start of a page on; give them mapped, the map, and where each one is."""
    folder = folder or Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    spans: list[tuple[int, int]] = []
    kinds: list[tuple[torch.dtype, torch.Size]] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for batch in batches:
            file.seek(-file.tell() % mmap.ALLOCATIONGRANULARITY, 1)
            spans.append((file.tell(), batch.nbytes))
            kinds.append((batch.dtype, batch.shape))
            # Written, not mapped and filled: a full disk is then an error, and not the end of the process.
            with naming_full_disk(folder, file.tell() + batch.nbytes):
                file.write(batch.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                file.flush()
        mapped = mmap.mmap(file.fileno(), 0)
    waiting = [
        torch.frombuffer(mapped, dtype=dtype, count=shape.numel(), offset=start).view(shape)
        for (start, _), (dtype, shape) in zip(spans, kinds, strict=True)
    ]
    return waiting, mapped, spans
