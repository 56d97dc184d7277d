"""How much memory an experiment takes at its peak, from the sizes of what is held at once."""

from nowag_exp.config import Experiment
from nowag_exp.evaluation.windows import LOGITS_AT_ONCE
from nowag_exp.methods import Dense, Needs, Pruner
from nowag_exp.methods.second_order import SecondOrder
from nowag_exp.methods.vector_quantization import VectorQuantizer
from nowag_exp.models import SITES, Architecture

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

PROCESS_BYTES = 700e6
"""Of a process that has imported everything and holds no model."""


def device_bytes(experiment: Experiment, sizes: Architecture, streamed: bool = False) -> float:
    """At the peak, where the model computes: its weights, and the most that one stage holds besides.

    Of a streamed model a stage holds one block, or the head.
    """
    forward, logits = _forward(experiment, sizes), _logits(experiment, sizes)
    compression = _compression(experiment, sizes)
    if not streamed:
        return weights_bytes(experiment, sizes) + max(forward, logits, compression)
    block = block_bytes(experiment, sizes)
    return max(block + forward, _head_bytes(experiment, sizes) + logits, block + compression)


def parts_by_block(experiment: Experiment, sizes: Architecture) -> dict[str, float]:
    """What a streamed model takes where it computes, part by part; not all of them at a time."""
    return {
        "block": block_bytes(experiment, sizes),
        "batch": _forward(experiment, sizes),
        "head and logits": _head_bytes(experiment, sizes) + _logits(experiment, sizes),
        "method": _compression(experiment, sizes),
    }


def block_bytes(experiment: Experiment, sizes: Architecture) -> float:
    """Of the linears of one block, as they are loaded."""
    return float(DTYPE_BYTES[experiment.model.dtype] * sizes.block_weights)


def _head_bytes(experiment: Experiment, sizes: Architecture) -> float:
    return float(DTYPE_BYTES[experiment.model.dtype] * sizes.vocabulary * sizes.hidden_size)


def host_bytes(experiment: Experiment, sizes: Architecture, on_gpu: bool, streamed: bool = False) -> float:
    """At the peak, in main memory, without hidden states; weights pass through it on their way to a GPU.

    Of a streamed model the next block is read while the present one computes.
    """
    model = weights_bytes(experiment, sizes) if on_gpu else device_bytes(experiment, sizes, streamed)
    if streamed:
        ahead = block_bytes(experiment, sizes)
        model = ahead if on_gpu else model + ahead
    return PROCESS_BYTES + model


def hidden_bytes(experiment: Experiment, sizes: Architecture, n_tokens: int) -> float:
    """Hidden states of so many tokens, which wait between two blocks."""
    return float(n_tokens * sizes.hidden_size * DTYPE_BYTES[experiment.model.dtype])


def weights_bytes(experiment: Experiment, sizes: Architecture) -> float:
    """Of all parameters as they are loaded."""
    return float(sizes.n_parameters * DTYPE_BYTES[experiment.model.dtype])


def site_widths(sizes: Architecture) -> list[int]:
    """Inputs of each site of a block."""
    linears = sizes.linears()
    return [linears[site.linears[0]][1] for site in SITES]


def _forward(experiment: Experiment, sizes: Architecture) -> float:
    """Activations of one batch in a block; while it calibrates also fp32 copies of them, and the second moments."""
    item = DTYPE_BYTES[experiment.model.dtype]
    tokens = max((experiment.batch_size(text) * text.context_length for text in experiment.texts.values()), default=0)
    per_token = item * (4 * sizes.hidden_size + 3 * sizes.intermediate_size)
    if experiment.calibration is not None:
        per_token += 8 * sizes.intermediate_size
    hessians = 0
    if experiment.method.needs is Needs.HESSIAN:
        hessians = sum(4 * width * width for width in site_widths(sizes))
    return float(tokens * per_token + hessians)


def _logits(experiment: Experiment, sizes: Architecture) -> float:
    """Logits of a part of a window in fp32 and in the model's dtype; with the dense model's, and their difference."""
    longest = max((text.context_length for text in experiment.evaluation.perplexities), default=0)
    rows = min(longest, max(1, LOGITS_AT_ONCE // sizes.vocabulary))
    dtype = DTYPE_BYTES[experiment.model.dtype]
    copies = (4 + (dtype if dtype < 4 else 0)) * (2 if experiment.evaluation.fidelity else 1)
    return float(rows * sizes.vocabulary * (copies + (4 if experiment.evaluation.fidelity else 0)))


def _compression(experiment: Experiment, sizes: Architecture) -> float:
    """What the method holds of its largest site or linear, in bytes a weight, as its operations are written."""
    method, linears = experiment.method, sizes.linears()
    largest = max(d_out * d_in for d_out, d_in in linears.values())
    if isinstance(method, Dense):
        return 0.0
    if isinstance(method, Pruner):
        return 24.0 * largest  # Normalised weight, scores, their order.
    if isinstance(method, VectorQuantizer):
        return (16 + 24 / method.d) * largest  # The weight twice, points, and for each point distances and indices.
    stacked = max(sum(linears[name][0] * linears[name][1] for name in site.linears) for site in SITES)
    factors = 12 * max(site_widths(sizes)) ** 2 if isinstance(method, SecondOrder) else 0
    return 24.0 * stacked + factors
