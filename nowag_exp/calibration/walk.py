"""The walk over the blocks: statistics of each block's input sites, and the compression of its linears."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nowag_exp.calibration.statistics import BlockStatistics, listening
from nowag_exp.errors import NowagError
from nowag_exp.formats import CompressedWeight, DenseWeight
from nowag_exp.ledger import Irregularity, Ledger
from nowag_exp.methods.base import Method, Needs, Propagate
from nowag_exp.models.blocks import SITES, CausalLM
from nowag_exp.progress import Tick


@dataclass(frozen=True)
class CompressedLinear:
    """What became of one linear.

    Attributes:
        name: full name, ``model.layers.3.mlp.up_proj``.
        shape: ``(d_out, d_in)``.
        n_kept: weights kept.
        format: of its compressed form.
        bits: of its compressed form.
        relative_error: ``‖W - Ŵ‖_F / ‖W‖_F``; 0 for a zero matrix.
    """

    name: str
    shape: tuple[int, int]
    n_kept: int
    format: str
    bits: int
    relative_error: float


@dataclass(frozen=True)
class CompressedBlock:
    """What a method made of the linears of one block.

    Attributes:
        weights: by full name of the linear.
        irregularities: that compressing them met.
        seconds: that it took, statistics included if they were collected on the way.
    """

    weights: dict[str, CompressedWeight]
    irregularities: list[Irregularity]
    seconds: float


@runtime_checkable
class Statistics(Protocol):
    """Gives the statistics of each block in turn."""

    def block(self, index: int) -> BlockStatistics:
        """Of this block, which is the next one."""

    def skip(self, index: int) -> None:
        """Go past a block whose statistics are not needed; its weights are what they will be."""


@runtime_checkable
class Finished(Protocol):
    """Blocks that an interrupted run has compressed, and where this one puts its own."""

    def get(self, index: int) -> CompressedBlock | None:
        """A block, if it is there."""

    def put(self, index: int, block: CompressedBlock, statistics: Statistics | None) -> None:
        """A block that was just compressed, its weights in the model already."""

    def weights(self, index: int) -> Mapping[str, CompressedWeight]:
        """Those of a block that was put or is there."""


class Walk:
    """Activations of the calibration tokens on their way through the blocks; gives statistics block by block.

    The consumer may replace the weights of a block before it asks for the next one. With ``dense`` the next block sees
    what the block put out before that; with ``compressed`` the block is run again on the weights that it has by then.

    Args:
        model: to run.
        hidden: input of block ``index``, a tensor a batch of windows.
        propagate: what the next block sees.
        needs: which statistics.
        index: block that the activations stand before.
    """

    def __init__(
        self,
        model: CausalLM,
        hidden: Iterable[Float[Tensor, "_ context hidden"]],
        propagate: Propagate,
        needs: Needs,
        index: int = 0,
    ) -> None:
        # One copy of the activations: a batch is overwritten as soon as nothing needs its input any more.
        self.model, self.hidden = model, model.waiting(hidden)
        self.propagate, self.needs, self.index = propagate, needs, index
        self._stands = True  # Before block `index`; otherwise that block still has to be run on its final weights.

    def __iter__(self) -> Iterator[BlockStatistics]:
        return self

    @torch.inference_mode()
    def __next__(self) -> BlockStatistics:
        self.settle()
        if self.index == self.model.n_blocks:
            raise StopIteration
        index = self.index
        with listening(self.model, index, self.needs) as listener:
            for number in range(len(self.hidden)):
                output = self.model.run_block(index, self.hidden[number], listener)
                if self.propagate == "dense":
                    self.hidden[number] = output
        if self.propagate == "dense":
            self.index += 1
        else:
            self._stands = False
        return listener.results(index)

    def block(self, index: int) -> BlockStatistics:
        """Statistics of the block that the activations stand before, or of the one after it once that has its weights.

        Raises:
            NowagError: if they are past it.
        """
        self.settle()
        if index != self.index:
            raise NowagError(f"block {index}: its input is gone, as the walk is at block {self.index}; run it again")
        return next(self)

    def skip(self, index: int) -> None:
        """Go past a block on the weights that it has now, unless the activations are past it already."""
        self.settle()
        if index == self.index:
            self._stands = False
            self.settle()  # While the block is there: a streamed model would have to read it again.

    @torch.inference_mode()
    def settle(self) -> None:
        """Bring the activations before block :attr:`index`."""
        if self._stands:
            return
        if self.index < self.model.n_blocks - 1:  # Nothing reads what the last one puts out.
            for number in range(len(self.hidden)):
                self.hidden[number] = self.model.run_block(self.index, self.hidden[number])
        self.index += 1
        self._stands = True


@torch.inference_mode()
def walk(
    model: CausalLM, tokens: Int64[Tensor, "n context"], batch_size: int, propagate: Propagate, needs: Needs
) -> Walk:
    """A walk from the first block on."""
    return Walk(model, (model.embed(batch) for batch in tokens.split(batch_size)), propagate, needs)


@torch.inference_mode()
def compress(
    model: CausalLM,
    method: Method,
    statistics: Statistics | None,
    ledger: Ledger,
    tick: Tick,
    keep: Callable[[str, CompressedWeight], None] | None = None,
    finished: Finished | None = None,
) -> list[CompressedLinear]:
    """Compress every linear of every block in place.

    Args:
        model: its linears are replaced by the decompressed values, in its dtype.
        method: what to do to them.
        statistics: of each block in turn; a :class:`Walk` or stored ones. ``None`` if the method needs none.
        ledger: dead input columns go there.
        tick: called after each block.
        keep: given each compressed weight under its linear's name, to write it to a file.
        finished: blocks of an interrupted run, which are taken over.

    Raises:
        NowagError: naming the linear, if a weight is NaN or infinite, before or after.
    """
    report: list[CompressedLinear] = []
    for index in range(model.n_blocks):
        block = known = finished.get(index) if finished else None
        if block is None:
            block = _compress_block(model, index, method, statistics)
        for entry in block.irregularities:
            ledger.entries.append(entry)
        for name, compressed in block.weights.items():
            report.append(_replace(model, index, name, compressed))
            if keep is not None:
                keep(name, compressed)
        if known is None and finished is not None:
            finished.put(index, block, statistics)
        if model.stream is not None and not is_dense(block.weights):
            model.stream.rewrite(index, partial(finished.weights, index) if finished else partial(dict, block.weights))
        if known is not None and statistics is not None:
            statistics.skip(index)
        tick(known=known is not None)
    return report


def _compress_block(model: CausalLM, index: int, method: Method, statistics: Statistics | None) -> CompressedBlock:
    started, ledger = time.perf_counter(), Ledger()
    block_statistics = None if statistics is None else statistics.block(index)
    found: dict[str, CompressedWeight] = {}
    for site in SITES:
        weights = {name: linear.weight.data for name, linear in model.linears(index, site).items()}
        for name, weight in weights.items():
            _require_finite(name, weight, "in the checkpoint; download the model again")
        seen = None if block_statistics is None else block_statistics[site.name].to(model.device)
        if seen is not None and (dead := int((seen.sum_of_squares == 0).sum())):
            ledger.add("dead_columns", " and ".join(weights), f"{dead} inputs are always 0", dead)
        found |= method.compress(weights, seen, ledger)
    return CompressedBlock(found, ledger.entries, time.perf_counter() - started)


def is_dense(weights: Mapping[str, CompressedWeight]) -> bool:
    """Whether these weights are what the checkpoint has."""
    return all(weight.kind == DenseWeight.kind for weight in weights.values())


def _replace(model: CausalLM, block: int, name: str, compressed: CompressedWeight) -> CompressedLinear:
    """Put the decompressed values into the model."""
    weight = model.weight(block, name)
    values = compressed.decompress().to(model.dtype)
    _require_finite(name, values, "after compression: 16 bits cannot hold them; use another method or model")
    unchanged = values is weight
    report = CompressedLinear(
        name=name,
        shape=compressed.shape,
        n_kept=compressed.n_nonzero,
        format=compressed.kind,
        bits=compressed.bits,
        relative_error=0.0 if unchanged else _relative_error(weight, values),
    )
    if not unchanged:
        model.replace_weight(name, values)
    return report


def _require_finite(name: str, weight: Tensor, where: str) -> None:
    bad = int((~torch.isfinite(weight)).sum())
    if bad:
        raise NowagError(f"{name}: {bad} of {weight.numel()} weights are NaN or infinite {where}")


def _relative_error(weight: Tensor, values: Tensor) -> float:
    norm = torch.linalg.vector_norm(weight.float())
    error = torch.linalg.vector_norm(weight.float() - values.float())
    return float(error / norm) if norm > 0 else 0.0
