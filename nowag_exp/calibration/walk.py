"""The walk over the blocks: statistics of each block's input sites, and the compression of its linears."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nowag_exp.calibration.statistics import BlockStatistics, listening
from nowag_exp.engines import Engine, Local, SiteJob, count_not_finite
from nowag_exp.errors import NowagError
from nowag_exp.formats import CompressedWeight, DenseWeight
from nowag_exp.ledger import Irregularity, Ledger
from nowag_exp.methods.base import Method, Needs, Propagate
from nowag_exp.models.blocks import CausalLM
from nowag_exp.models.sites import SITES
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

    def has(self, index: int) -> bool:
        """Whether a block is there; it may be damaged."""

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
        n_tokens: of all of them.
        propagate: what the next block sees.
        needs: which statistics.
        index: block that the activations stand before.
    """

    def __init__(
        self,
        model: CausalLM,
        hidden: Iterable[Float[Tensor, "_ context hidden"]],
        n_tokens: int,
        propagate: Propagate,
        needs: Needs,
        index: int = 0,
    ) -> None:
        # One copy of the activations: a batch is overwritten as soon as nothing needs its input any more.
        self.model, self.hidden = model, model.waiting(hidden, n_tokens)
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
        # Of a block that is to be compressed first the output is not wanted yet, and nothing reads that of the last
        # one: their last linear is spared.
        to_its_end = self.propagate == "dense" and index < self.model.n_blocks - 1
        with listening(self.model, index, self.needs, to_its_end) as listener:
            for number in range(len(self.hidden)):
                output = self.model.run_block(index, self.hidden[number], listener)
                if self.propagate == "dense":
                    self.hidden[number] = output
        if self.propagate == "dense":
            self.index += 1
        else:
            self._stands = False
        return listener.results(index, self.model.why_not_finite)

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
    return Walk(model, map(model.embed, tokens.split(batch_size)), tokens.numel(), propagate, needs)


@torch.inference_mode()
def compress(
    model: CausalLM,
    method: Method,
    statistics: Statistics | None,
    ledger: Ledger,
    tick: Tick,
    keep: Callable[[str, CompressedWeight], None] | None = None,
    finished: Finished | None = None,
    engine: Engine | None = None,
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
        engine: where sites are compressed; by default where the model is.

    Raises:
        NowagError: naming the linear, if a weight is NaN or infinite, before or after.
    """
    engine = engine or Local([model.device])
    todo = [index for index in range(model.n_blocks) if finished is None or not finished.has(index)]
    sites = _Sites(model, statistics)
    # Blocks that do not depend on one another are all one stream of work.
    ahead = None if isinstance(statistics, Walk) else engine.run(method, sites.jobs(todo))
    report: list[CompressedLinear] = []
    for index in range(model.n_blocks):
        started = time.perf_counter()
        block = known = finished.get(index) if finished is not None and index not in todo else None
        if block is None:
            running = ahead if ahead is not None and index in todo else engine.run(method, sites.jobs([index]))
            results = list(islice(running, len(SITES)))
            seconds = time.perf_counter() - started if ahead is None else sum(result.seconds for result in results)
            weights = {name: weight for result in results for name, weight in result.weights.items()}
            block = CompressedBlock(weights, [entry for result in results for entry in result.irregularities], seconds)
        for entry in block.irregularities:
            ledger.entries.append(entry)
        for name, compressed in block.weights.items():
            report.append(_replace(model, name, sites.original(index, name), compressed))
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


class _Sites:
    """The sites of a model as pieces of work, and their weights until these are replaced."""

    def __init__(self, model: CausalLM, statistics: Statistics | None) -> None:
        self._model, self._statistics = model, statistics
        self._originals: dict[str, Tensor] = {}

    def jobs(self, blocks: Iterable[int]) -> Iterator[SiteJob]:
        for index in blocks:
            seen = None if self._statistics is None else self._statistics.block(index)
            for site in SITES:
                weights = {name: linear.weight.data for name, linear in self._model.linears(index, site).items()}
                self._originals |= weights
                yield SiteJob(index, site.name, weights, None if seen is None else seen[site.name])

    def original(self, block: int, linear: str) -> Tensor:
        """The weight of a linear before it was compressed."""
        original = self._originals.pop(linear, None)
        return self._model.weight(block, linear) if original is None else original


def is_dense(weights: Mapping[str, CompressedWeight]) -> bool:
    """Whether these weights are what the checkpoint has."""
    return all(weight.kind == DenseWeight.kind for weight in weights.values())


def _replace(model: CausalLM, name: str, weight: Tensor, compressed: CompressedWeight) -> CompressedLinear:
    """Put the decompressed values into the model."""
    values = compressed.to(weight.device).dense(model.dtype)
    _require_finite(name, values)
    unchanged = values.data_ptr() == weight.data_ptr()
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


def _require_finite(name: str, values: Tensor) -> None:
    if bad := count_not_finite(values):
        raise NowagError(
            f"{name}: {bad} of {values.numel()} weights are NaN or infinite after compression: 16 bits cannot hold "
            "them; use another method or model"
        )


def _relative_error(weight: Tensor, values: Tensor) -> float:
    norm = torch.linalg.vector_norm(weight.float())
    error = torch.linalg.vector_norm(weight.float() - values.float())
    return float(error / norm) if norm > 0 else 0.0
