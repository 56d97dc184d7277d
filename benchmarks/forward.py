"""Calibration and evaluation against the plain transformers forward on the same tokens.

The floor is the matrix products: the linears, causal attention and, for evaluation, the head.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.bench import Bench
from benchmarks.timing import Comparison, Wanted, Work
from nowag_exp.calibration import walk
from nowag_exp.evaluation import last_states, score_windows
from nowag_exp.methods import Needs
from nowag_exp.models import Architecture

CONTEXT, BATCH = 512, 4


def forward_operations(sizes: Architecture, n_windows: int, context: int, *, head: bool) -> float:
    """Operations of the matrix products of a forward; half of the attention's, since it is causal."""
    n_tokens = float(n_windows * context)
    attention = (
        2.0 * context * sizes.n_heads * sizes.head_dim
    )  # Of one token and block: 2 products of half the context.
    of_token = sizes.n_blocks * (2.0 * sizes.block_weights + attention)
    return n_tokens * (of_token + (2.0 * sizes.hidden_size * sizes.vocabulary if head else 0.0))


def run(bench: Bench) -> Iterator[Comparison]:
    model, n_windows = bench.model, 4 if bench.full else 1
    sizes = Architecture.of(model.checkpoint.config)
    ids = torch.randint(sizes.vocabulary, (n_windows, CONTEXT), generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def plain_body() -> None:
        for batch in ids.split(BATCH):
            model.module.model(batch, use_cache=False)

    @torch.inference_mode()
    def plain_with_head() -> None:
        for batch in ids.split(BATCH):
            model.module(batch, use_cache=False)

    @torch.inference_mode()
    def plain_loss() -> None:
        for batch in ids.split(BATCH):
            model.module(batch, labels=batch, use_cache=False)

    @torch.inference_mode()
    def plain_divergence() -> None:
        for batch in ids.split(BATCH):
            dense = model.module(batch, use_cache=False).logits.log_softmax(dim=-1)
            logits = model.module(batch, use_cache=False).logits.log_softmax(dim=-1)
            torch.nn.functional.kl_div(logits, dense, log_target=True, reduction="sum")
            torch.nn.functional.nll_loss(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
            (dense.argmax(dim=-1) == logits.argmax(dim=-1)).sum()

    def calibration() -> None:
        deque(walk(model, ids, BATCH, "dense", Needs.DIAGONAL), maxlen=0)

    def evaluation() -> None:
        score_windows(model, ids, last_states(model, ids.split(BATCH)), None, lambda step=None, known=False: None)

    dense_states = list(last_states(model, ids.split(BATCH)))

    def fidelity() -> None:
        score_windows(
            model, ids, last_states(model, ids.split(BATCH)), dense_states, lambda step=None, known=False: None
        )

    body = Work(product=forward_operations(sizes, n_windows, CONTEXT, head=False))
    with_head = Work(product=forward_operations(sizes, n_windows, CONTEXT, head=True))
    # The dense model's states are kept, so its logits are all that is computed of it.
    with_two_heads = Work(product=2 * with_head.product - body.product)
    wanted, rounds = Wanted(ratio=0.95), (3, 7)
    for name, ours, plain, work in (
        ("calibration, against the forward without its head", calibration, plain_body, body),
        ("evaluation, against the forward without any loss", evaluation, plain_with_head, with_head),
        ("evaluation, against the forward with its loss", evaluation, plain_loss, with_head),
        ("evaluation with KL, against both models' forward", fidelity, plain_divergence, with_two_heads),
    ):
        row = bench.compare(name, ours, plain, work, wanted, rounds)
        yield replace(
            row, details={"tokens/s": ids.numel() / row.ours, "tokens/s plain": ids.numel() / (row.plain or 0)}
        )
