"""Calibration and evaluation against the plain transformers forward on the same tokens."""

from collections import deque

import torch

from benchmarks.timing import Comparison, compare
from nowag_exp.calibration import walk
from nowag_exp.evaluation import last_states, score_windows
from nowag_exp.methods import Needs
from nowag_exp.models import CausalLM

CONTEXT, WINDOWS, BATCH = 512, 4, 4


def run(model: CausalLM) -> list[Comparison]:
    ids = torch.randint(49152, (WINDOWS, CONTEXT), generator=torch.Generator().manual_seed(0))

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

    return [
        compare("calibration, against the forward without its head", calibration, plain_body, 7, 0.95),
        compare("evaluation, against the forward without any loss", evaluation, plain_with_head, 7, 0.95),
        compare("evaluation, against the forward with its loss", evaluation, plain_loss, 7, 0.95),
        compare("evaluation with KL, against both models' forward", fidelity, plain_divergence, 3, 0.95),
    ]
