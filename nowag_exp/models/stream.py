"""A model that is never loaded: its blocks are read one at a time, the next one while the present one computes."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nowag_exp.allocator import is_out_of_memory
from nowag_exp.errors import NowagError
from nowag_exp.formats import CompressedWeight
from nowag_exp.models.checkpoint import EMBEDDING, HEAD, Checkpoint

Weights = Mapping[str, CompressedWeight]
"""Compressed linears of a block, by full name."""


class BlockStream:
    """The weights of a skeleton on the meta device: one block at a time is where the model computes, or the head.

    Args:
        checkpoint: has the weights.
        module: the skeleton, a transformers model in the precision to compute in.
        device: where the model computes.
    """

    def __init__(self, checkpoint: Checkpoint, module: nn.Module, device: torch.device) -> None:
        self.checkpoint, self.module, self.device = checkpoint, module, device
        self._blocks: nn.ModuleList = module.model.layers  # type: ignore[assignment,union-attr]
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="block-reader")
        self._held: int | None = None
        self._ahead: tuple[int, Future[tuple[dict[str, Tensor], Weights]]] | None = None
        self._head: Tensor | None = None
        self._rewritten: dict[int, Callable[[], Weights]] = {}
        # Memory-mapped: of the embedding only the rows of tokens that occur are ever read.
        self._embedding = checkpoint.mapped(EMBEDDING)
        module.get_submodule("model.norm").weight = _frozen(self.tensor("model.norm.weight").to(device, copy=True))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights where the model computes."""
        return self.module.get_parameter(EMBEDDING).dtype

    def hold(self, index: int) -> nn.Module:
        """Have a block where the model computes, and nothing else but what it takes to read the next one.

        Raises:
            NowagError: if it does not fit there.
        """
        block = self._blocks[index]
        if self._held != index:
            self.release()
            tensors, compressed = self._read_ahead(index)
            with self._moving(f"block {index}"):
                found = {name: tensor.to(self.device) for name, tensor in tensors.items()}
                for linear, weight in compressed.items():
                    name = linear.removeprefix(_prefix(index)) + ".weight"
                    found[name] = weight.to(self.device).dense(self.dtype)
            block.load_state_dict(found, assign=True)
            block.requires_grad_(False)
            self._held = index
        if self._ahead is None and index + 1 < len(self._blocks):
            self._ahead = (index + 1, self._reader.submit(self._read, index + 1))
        return block

    def release(self) -> None:
        """Let go of the block or head that is held."""
        if self._held is not None:
            self._blocks[self._held].to("meta")
            self._held = None
        self._head = None

    def rewrite(self, index: int, weights: Callable[[], Weights]) -> None:
        """From now on some linears of a block are these; they are called for whenever the block is read again."""
        self._rewritten[index] = weights
        if self._ahead is not None and self._ahead[0] == index:
            self._drop_ahead()

    def restore(self) -> None:
        """Undo :meth:`rewrite`, and whatever was done to the block that is held."""
        self._rewritten.clear()
        self._drop_ahead()
        self.release()

    def embed(self, ids: Int64[Tensor, "rows context"]) -> Float[Tensor, "rows context hidden"]:
        """Input of the first block."""
        return F.embedding(ids.cpu(), self._embedding).to(self.device, self.dtype)

    def head(self) -> Float[Tensor, "vocabulary hidden"]:
        """Weight of the language-model head; no block is held beside it.

        Raises:
            NowagError: if it does not fit where the model computes.
        """
        if self._head is None:
            self.release()
            tied = self.module.config.tie_word_embeddings  # type: ignore[union-attr]
            head = self._embedding if tied else self.checkpoint.mapped(HEAD)
            with self._moving("the language-model head"):
                self._head = head.to(self.device, self.dtype)
        return self._head

    def tensor(self, name: str) -> Tensor:
        """Any tensor of the checkpoint, in the precision to compute in."""
        return self.checkpoint.mapped(name).to(self.dtype)

    @contextmanager
    def _moving(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            way = "a GPU that nothing else uses, or runtime.device=cpu" if self.device.type == "cuda" else "free memory"
            raise NowagError(
                f"{what} of the model does not fit into the memory of {self.device}, though nothing else of it is "
                f"there ({next(iter(str(error).splitlines()))}); {way}"
            ) from error

    def _read_ahead(self, index: int) -> tuple[dict[str, Tensor], Weights]:
        if self._ahead is not None and self._ahead[0] == index:
            (_, reading), self._ahead = self._ahead, None
            return reading.result()
        self._drop_ahead()
        return self._read(index)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead[1].exception()  # Waited for, so that two blocks are never read at once.
            self._ahead = None

    def _read(self, index: int) -> tuple[dict[str, Tensor], Weights]:
        """A block in main memory: its tensors by their names in it, and those linears that were compressed."""
        prefix = _prefix(index)
        compressed = self._rewritten[index]() if index in self._rewritten else {}
        names = [prefix + name for name in self._blocks[index].state_dict()]
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.checkpoint.read(
            name for name in names if name.removesuffix(".weight") not in compressed
        ):
            # Into pinned memory beside a GPU, from which copies are faster.
            copy = torch.empty(tensor.shape, dtype=self.dtype, pin_memory=self.device.type == "cuda")
            tensors[name.removeprefix(prefix)] = copy.copy_(tensor)
        return tensors, compressed


def _prefix(index: int) -> str:
    return f"model.layers.{index}."


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
