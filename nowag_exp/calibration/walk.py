"""The walk over the blocks: statistics of each block's input sites, and the compression of its linears."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from nowag_exp.calibration.statistics import BlockStatistics, listening
from nowag_exp.errors import NowagError
from nowag_exp.formats import CompressedWeight
from nowag_exp.ledger import Ledger
from nowag_exp.methods.base import Method, Needs, Propagate
from nowag_exp.models.blocks import SITES, CausalLM, Site
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


@torch.inference_mode()
def walk(
    model: CausalLM, tokens: Int64[Tensor, "n context"], batch_size: int, propagate: Propagate, needs: Needs
) -> Iterator[BlockStatistics]:
    """Yield the statistics of each block, first to last.

    The consumer may replace the block's weights before it asks for the next one. With ``dense`` the next block sees
    what the block put out before that; with ``compressed`` the block is run again on the weights that it has by then.
    """
    last = len(model.blocks) - 1
    # One copy of the activations of all batches, on the CPU: 128 sequences of 4096 tokens of a 70B model are 8.6 GB in
    # 16 bits. A batch is overwritten as soon as nothing needs its input any more.
    hidden = [model.embed(batch).cpu() for batch in tokens.split(batch_size)]
    for index in range(last + 1):
        with listening(model, index, needs) as accumulators:
            for number, batch in enumerate(hidden):
                output = model.run_block(index, batch.to(model.device))
                if propagate == "dense":
                    hidden[number] = output.cpu()
        yield {site.name: accumulators[site.name].result(_names(model, index, site)) for site in SITES}
        if propagate == "compressed" and index < last:
            for number, batch in enumerate(hidden):
                hidden[number] = model.run_block(index, batch.to(model.device)).cpu()


def _names(model: CausalLM, index: int, site: Site) -> str:
    return " and ".join(model.linears(index, site))


@torch.inference_mode()
def compress(
    model: CausalLM,
    method: Method,
    statistics: Iterator[BlockStatistics] | None,
    ledger: Ledger,
    tick: Tick,
    keep: Callable[[str, CompressedWeight], None] | None = None,
) -> list[CompressedLinear]:
    """Compress every linear of every block in place.

    Args:
        model: its linears are replaced by the decompressed values, in its dtype.
        method: what to do to them.
        statistics: of each block in turn; a :func:`walk` in progress or stored ones. ``None`` if the method needs none.
        ledger: dead input columns go there.
        tick: called after each block.
        keep: given each compressed weight under its linear's name, to write it to a file.

    Raises:
        NowagError: naming the linear, if a weight is NaN or infinite, before or after.
    """
    report: list[CompressedLinear] = []
    for index in range(len(model.blocks)):
        block_statistics = None if statistics is None else next(statistics)
        for site in SITES:
            linears = model.linears(index, site)
            weights = {name: linear.weight.data for name, linear in linears.items()}
            for name, weight in weights.items():
                _require_finite(name, weight, "in the checkpoint; download the model again")
            seen = None if block_statistics is None else block_statistics[site.name].to(model.device)
            if seen is not None and (dead := int((seen.sum_of_squares == 0).sum())):
                ledger.add("dead_columns", _names(model, index, site), f"{dead} inputs are always 0", dead)
            for name, compressed in method.compress(weights, seen, ledger).items():
                values = compressed.decompress().to(model.dtype)
                _require_finite(
                    name, values, "after compression: 16 bits cannot hold them; use another method or model"
                )
                if keep is not None:
                    keep(name, compressed)
                unchanged = values is weights[name]
                report.append(
                    CompressedLinear(
                        name=name,
                        shape=compressed.shape,
                        n_kept=compressed.n_nonzero,
                        format=compressed.kind,
                        bits=compressed.bits,
                        relative_error=0.0 if unchanged else _relative_error(weights[name], values),
                    )
                )
                if not unchanged:
                    model.replace_weight(name, values)
        tick()
    return report


def _require_finite(name: str, weight: Tensor, where: str) -> None:
    bad = int((~torch.isfinite(weight)).sum())
    if bad:
        raise NowagError(f"{name}: {bad} of {weight.numel()} weights are NaN or infinite {where}")


def _relative_error(weight: Tensor, values: Tensor) -> float:
    norm = torch.linalg.vector_norm(weight.float())
    error = torch.linalg.vector_norm(weight.float() - values.float())
    return float(error / norm) if norm > 0 else 0.0
