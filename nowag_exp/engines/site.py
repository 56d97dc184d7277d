"""The compression of one input site, as a piece of work that can be done anywhere."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nowag_exp.errors import NowagError, one_line
from nowag_exp.formats import CompressedWeight
from nowag_exp.ledger import Irregularity, Ledger
from nowag_exp.methods.base import FactorCache, Method, SiteStatistics
from nowag_exp.methods.second_order import SecondOrder

MOST_LOST = 2.0**-10
"""Share of the largest number of a stored tensor that rounding below the type's normal range may take; within that
range it takes at most 2^-11 in fp16."""


@dataclass(frozen=True)
class SiteJob:
    """The linears that read one activation, and what was seen of it.

    Attributes:
        block: index of their block.
        site: name of the input site.
        weights: by full name of the linear.
        statistics: ``None`` if the method needs none.
    """

    block: int
    site: str
    weights: Mapping[str, Float[Tensor, "..."]]
    statistics: SiteStatistics | None

    @property
    def linears(self) -> str:
        """Names of the linears, for messages."""
        return " and ".join(self.weights)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(iter(self.weights.values())).device

    @property
    def factors(self) -> FactorCache:
        """Where factors of its Hessian are kept."""
        return {} if self.statistics is None else self.statistics.factors

    def to(self, device: torch.device) -> "SiteJob":
        """The same on another device."""
        weights = {linear: weight.to(device) for linear, weight in self.weights.items()}
        return replace(self, weights=weights, statistics=self.statistics and self.statistics.to(device))


@dataclass(frozen=True)
class SiteResult:
    """What a method made of the linears of one site.

    Attributes:
        weights: by full name of the linear.
        irregularities: that compressing them met.
        seconds: that it took.
    """

    weights: dict[str, CompressedWeight]
    irregularities: list[Irregularity]
    seconds: float

    def to(self, device: torch.device) -> "SiteResult":
        """The same on another device."""
        weights = {linear: weight.to(device) for linear, weight in self.weights.items()}
        return replace(self, weights=weights)


@torch.inference_mode()
def compress_site(method: Method, job: SiteJob) -> SiteResult:
    """Compress the linears of one site, where they are.

    Raises:
        NowagError: naming the linears, if a weight is NaN or infinite, the method fails, or what it made cannot be held
            by the types that it is stored in.
    """
    started, ledger = time.perf_counter(), Ledger()
    for linear, weight in job.weights.items():
        if bad := count_not_finite(weight):
            # A weight of another type may have left float16's range when it was cast, in a file that is sound.
            where, remedy = "in the checkpoint", "download the model again"
            if weight.dtype == torch.float16:
                where, remedy = "in float16", f"use model.dtype=bfloat16 or float32, and if they are still, {remedy}"
            raise NowagError(f"{linear}: {bad} of {weight.numel()} weights are NaN or infinite {where}; {remedy}")
    seen = job.statistics
    if seen is not None and (dead := int(seen.dead.sum())):
        ledger.add("dead_columns", job.linears, f"{dead} inputs are always 0", dead)
    try:
        found = method.compress(job.weights, seen, ledger)
    except NowagError:
        raise
    except Exception as error:
        raise NowagError(f"{job.linears}: {one_line(error)}") from error
    for linear, compressed in found.items():
        check_stored(linear, compressed, job.weights[linear])
    return SiteResult(found, ledger.entries, time.perf_counter() - started)


def check_stored(linear: str, compressed: CompressedWeight, weight: Float[Tensor, "d_out d_in"]) -> None:
    """Check that every stored number is one that its type holds: neither infinite nor lost below its range.

    Below its smallest normal number a type rounds to multiples of its smallest one. A tensor whose largest number loses
    more than :data:`MOST_LOST` of itself that way is refused. A weight that is zero has nothing to lose.

    Raises:
        NowagError: naming linear, tensor and type.
    """
    for name, tensor in compressed.tensors().items():
        if not tensor.is_floating_point():
            continue
        held, problem = torch.finfo(tensor.dtype), ""
        smallest = held.smallest_normal * held.eps
        if bad := count_not_finite(tensor):
            problem = f"{bad} of {tensor.numel()} numbers are not finite, for the type ends at {held.max:g}"
        elif tensor.dtype != weight.dtype and tensor.numel():
            largest = float(tensor.abs().max())
            if largest * MOST_LOST < smallest / 2 and bool(weight.any()):
                problem = (
                    f"its largest number is {largest:.3g}, of which rounding takes more than {MOST_LOST:.1%}, for the "
                    f"type's numbers lie {smallest:.3g} apart there"
                )
        if problem:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise NowagError(
                f"{linear}: {name} of {compressed.kind}, stored as {dtype}: {problem}. "
                f"The weights reach {weight.abs().max():.3g}; scale them, and by the inverse the norm before them"
            )


def count_not_finite(values: Float[Tensor, "..."]) -> int:
    """How many are NaN or infinite. Their sum tells whether any is, unless it overflows itself: one pass, no mask."""
    if bool(torch.isfinite(values.sum())):
        return 0
    return int(torch.count_nonzero(~torch.isfinite(values)))


@dataclass(frozen=True)
class Done:
    """A result that comes from elsewhere.

    Attributes:
        result: it.
        factors: made on the way, by name; whoever sent the job keeps them.
    """

    result: SiteResult
    factors: dict[str, Tensor]


def detached(method: Method, job: SiteJob) -> SiteJob:
    """The job with the factor that the method will ask for, instead of a store that is open here."""
    if job.statistics is None:
        return job
    name = method.factor_name if isinstance(method, SecondOrder) else None
    known = None if name is None else job.statistics.factors.get(name)
    factors = {} if name is None or known is None else {name: known}
    return replace(job, statistics=replace(job.statistics, factors=factors))


def compress_detached(method: Method, job: SiteJob, device: torch.device) -> Done:
    """Compress a :func:`detached` job on a device of a worker; the result comes back to where the job was.

    Raises:
        NowagError: as :func:`compress_site`.
    """
    known = dict[str, Tensor]()
    if job.statistics is not None:
        assert isinstance(job.statistics.factors, dict)
        known = job.statistics.factors
        job = replace(job, statistics=replace(job.statistics, factors=dict(known)))
    result = compress_site(method, job.to(device)).to(job.device)
    assert isinstance(job.factors, dict)
    return Done(result, {name: factor.cpu() for name, factor in job.factors.items() if name not in known})
