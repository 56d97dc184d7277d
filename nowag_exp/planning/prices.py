"""How long a piece of work takes on this machine: a slice of it is timed, and scaled by what its cost grows with."""

import functools
import math
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from nowag_exp.evaluation.windows import token_losses
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Method, Needs, SiteStatistics
from nowag_exp.methods.second_order import SecondOrder
from nowag_exp.methods.vector_quantization import VectorQuantizer
from nowag_exp.models import Architecture
from nowag_exp.ops.factor import hessian_factor
from nowag_exp.planning.pieces import Compress, Factorisation, Forward, Head, SecondMoment, Task

BLOCK_WEIGHTS = 2**22
"""Weights of the block that is timed, at most."""

TOKENS = 128
"""Of the forward pass that is timed."""

SLICE = (256, 512)
"""Rows and columns of the linear that is timed, at most; more if the method needs them."""

STEPS = (2, 22)
"""Lloyd steps of the two runs whose difference is the time of twenty: later ones take less, as most points stay."""

INDEX_BITS = 12
"""Of the codebook that is timed, at most; to start and to step, k-means takes points times codewords."""

BUDGET = 0.25
"""Seconds after which a measurement is not repeated."""

MOST_RUNS = 50

EFFICIENCY = 0.8
"""Of several threads on a CPU against as many times one."""


class Prices:
    """Seconds a unit of work on one device; each is measured once, when it is first asked for.

    On a CPU one thread is timed, and the others taken to add 0.8 of its speed each: several threads that wait for one
    another are slowed down a hundredfold by other processes, one is not, and a plan is made for a machine at rest.

    Args:
        device: where the experiments run.
        threads: of torch, on the CPU.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads = device, threads
        self._known: dict[Any, float] = {}

    def seconds(self, task: Task) -> float:
        """Of doing a task once."""
        match task:
            case Forward():
                slice_ = shrunk(task.sizes)
                per_flop = self._once(("flop", slice_, task.dtype), lambda: self._time_block(slice_, task.dtype))
                return per_flop * block_flops(task.sizes, task.context_length)
            case Head():
                slice_ = shrunk(task.sizes)
                per_flop = self._once(("flop", slice_, task.dtype), lambda: self._time_block(slice_, task.dtype))
                vocabulary, passes = task.sizes.vocabulary, 2 if task.held_against else 1
                losses = self._once(("losses", vocabulary), lambda: self._time_losses(vocabulary))
                # Held against the dense model: a normaliser for each, and about as much for their difference.
                return passes * 2 * vocabulary * task.sizes.hidden_size * per_flop + (2 * passes - 1) * losses
            case SecondMoment():
                return task.d_in**2 * self._flop32  # It is symmetric: half of the product is computed.
            case Factorisation():
                width = min(task.d_in, 2 * SLICE[1])
                of_slice = self._once(("factor", width), lambda: self._time_factor(width))
                return of_slice * (task.d_in / width) ** 3
            case Compress():
                return self._compress(task)

    @property
    def _flop32(self) -> float:
        return self._once("flop32", self._time_product)

    def _once(self, key: Any, measure: Callable[[], float]) -> float:
        if key not in self._known:
            before = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                with torch.inference_mode(), torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    self._known[key] = measure() / self._threads_worth
            finally:
                torch.set_num_threads(before)
        return self._known[key]

    @property
    def _threads_worth(self) -> float:
        """How many times as fast as one thread the device is."""
        return 1 + EFFICIENCY * (self.threads - 1) if self.device.type == "cpu" else 1.0

    def _compress(self, task: Compress) -> float:
        """Of all linears of a block, from a slice of the largest one."""
        method, shapes = unseeded(task.method), task.sizes.linears().values()
        more_codewords = 1.0
        if isinstance(method, VectorQuantizer) and method.index_bits > INDEX_BITS:
            more_codewords = 2.0 ** (method.index_bits - INDEX_BITS)
            method = replace(method, bits=INDEX_BITS / method.d)
        shape = slice_shape(method, max(shapes, key=math.prod))
        scale = more_codewords * task.sizes.block_weights / math.prod(shape)
        key = ("compress", method, shape, task.dtype)
        if isinstance(method, VectorQuantizer):
            few, more = (replace(method, iterations=n, restarts=1, tolerance=0.0) for n in STEPS)
            short = self._once(("compress", few, shape, task.dtype), lambda: self._time_method(few, shape, task.dtype))
            long = self._once(("compress", more, shape, task.dtype), lambda: self._time_method(more, shape, task.dtype))
            step = max(0.0, long - short) / (STEPS[1] - STEPS[0])
            start = max(0.0, short - STEPS[0] * step)
            return scale * method.restarts * (start + method.iterations * step)
        seconds = scale * self._once(key, lambda: self._time_method(method, shape, task.dtype))
        if isinstance(method, SecondOrder):
            # The product that brings a segment up to date grows with the columns before it.
            seconds += sum(d_out * max(0, d_in**2 - d_in * shape[1]) for d_out, d_in in shapes) * self._flop32
        return seconds

    def _time(self, work: Callable[[], object]) -> float:
        """Least seconds, as if nothing else ran here; the first run is a warm-up, in which kernels may be compiled."""
        self._run(work)
        taken = [self._run(work) for _ in range(3)]
        while sum(taken) < BUDGET and len(taken) < MOST_RUNS:
            taken.append(self._run(work))
        return min(taken)

    def _run(self, work: Callable[[], object]) -> float:
        self._synchronise()
        start = time.perf_counter()
        work()
        self._synchronise()
        return time.perf_counter() - start

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _time_block(self, sizes: Architecture, dtype: str) -> float:
        """Seconds a floating-point operation in a block of these sizes."""
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

        config = LlamaConfig(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_attention_heads=sizes.n_heads,
            num_key_value_heads=sizes.n_kv_heads,
            head_dim=sizes.head_dim,
            attn_implementation="sdpa",
        )
        kind = getattr(torch, dtype)
        block = LlamaDecoderLayer(config, 0).to(self.device, kind).eval()
        hidden = torch.randn(1, TOKENS, sizes.hidden_size, device=self.device).to(kind)
        positions = torch.arange(TOKENS, device=self.device)[None]
        angles = LlamaRotaryEmbedding(config).to(self.device)(hidden, position_ids=positions)
        seconds = self._time(
            lambda: block(hidden, attention_mask=None, position_ids=positions, position_embeddings=angles)
        )
        return seconds / (TOKENS * block_flops(sizes, TOKENS))

    def _time_losses(self, vocabulary: int) -> float:
        """Seconds a token, logits to loss."""
        rows = max(1, 2**22 // vocabulary)
        logits = torch.randn(rows, vocabulary, device=self.device)
        targets = torch.zeros(rows, dtype=torch.int64, device=self.device)
        return self._time(lambda: token_losses(logits.clone(), targets)) / rows

    def _time_product(self) -> float:
        """Seconds a floating-point operation of a matrix product in fp32."""
        size = 2 * SLICE[1]
        left, right = (torch.randn(size, size, device=self.device) for _ in range(2))
        return self._time(lambda: left @ right) / (2 * size**3)

    def _time_factor(self, width: int) -> float:
        hessian = _hessian(width, self.device)
        return self._time(lambda: hessian_factor(hessian, 0.01))

    def _time_method(self, method: Method, shape: tuple[int, int], dtype: str) -> float:
        """Seconds for a linear of this shape, with what is done to every compressed weight."""
        weight = torch.randn(shape, device=self.device).to(getattr(torch, dtype))
        seen = made_up_statistics(method, shape[1], self.device)

        def work() -> None:
            for compressed in method.compress({"linear": weight}, seen, Ledger()).values():
                values = compressed.dense(weight.dtype)
                torch.isfinite(weight).sum(), torch.isfinite(values).sum()
                torch.linalg.vector_norm(weight.float() - values.float())

        return self._time(work)


def unseeded(method: Method) -> Method:
    """The same with one seed for all: it changes what is drawn, not how long it takes."""
    seeded = any(setting.name == "seed" for setting in fields(method))  # type: ignore[arg-type]
    return replace(method, seed=0) if seeded else method  # type: ignore[type-var]


def shrunk(sizes: Architecture) -> Architecture:
    """The same, all widths divided by a power of two until a block is small enough to be timed."""
    smaller = sizes
    while smaller.block_weights > BLOCK_WEIGHTS and smaller.n_heads > 1:
        smaller = replace(
            smaller,
            hidden_size=smaller.hidden_size // 2,
            intermediate_size=smaller.intermediate_size // 2,
            n_heads=smaller.n_heads // 2,
            n_kv_heads=max(1, smaller.n_kv_heads // 2),
        )
    return smaller


def block_flops(sizes: Architecture, context_length: int) -> float:
    """Floating-point operations of one token in a block: its linears, and attention to half the window on average."""
    return 2.0 * sizes.block_weights + 2.0 * context_length * sizes.n_heads * sizes.head_dim


@functools.cache
def slice_shape(method: Method, shape: tuple[int, int]) -> tuple[int, int]:
    """The smallest part of a linear that the method can be timed on: enough columns, and enough rows for codebooks."""
    d_out, d_in = shape

    def fits(rows: int, columns: int) -> bool:
        return method.check_shapes({"linear": (rows, columns)}) is None

    columns = next((n for n in range(min(SLICE[1], d_in), 0, -1) if fits(d_out, n)), None)
    columns = columns or next((n for n in range(min(SLICE[1], d_in), d_in) if fits(d_out, n)), d_in)
    rows = min(SLICE[0], d_out)
    # With few points a codeword k-means has nothing to do.
    while rows < d_out and not fits(max(1, rows // 8), columns):
        rows = min(2 * rows, d_out)
    return rows, columns


def made_up_statistics(method: Method, d_in: int, device: torch.device) -> SiteStatistics | None:
    """What a method asks for, of random activations; with its factor, so that it is not made and timed again."""
    if method.needs is Needs.NOTHING:
        return None
    hessian = _hessian(d_in, device)
    n_tokens = 2 * d_in
    squares = hessian.diagonal().double() * (n_tokens / 2)
    factors: dict[str, Tensor] = {}
    if isinstance(method, SecondOrder):
        factors[method.factor_name] = hessian_factor(hessian, method.dampening)
    return SiteStatistics(n_tokens, squares, hessian * (n_tokens / 2), factors)


def _hessian(d_in: int, device: torch.device) -> Tensor:
    """``2/n X Xᵀ`` of random activations, positive definite."""
    activations = torch.randn(2 * d_in, d_in, device=device)
    return activations.T @ activations / d_in
