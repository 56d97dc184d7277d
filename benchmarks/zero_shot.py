"""Zero-shot scoring against lm-eval's own model class, and against the plain transformers forward on the same texts.

The floor is one forward of every token that differs: a context once for all its choices; the head where answers are.
"""

import logging
import random
from collections.abc import Iterator

import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.bench import Bench
from benchmarks.forward import forward_operations
from benchmarks.timing import Comparison, Wanted, Work
from nowag_exp.models import Architecture
from nowag_exp.text import load_transformers_tokenizer

CHOICES, CONTEXT, ANSWER, BATCH = 4, 40, 8, 16
WORDS = ["time", "year", "people", "way", "day", "man", "thing", "life", "world", "school", "house", "water", "night"]
"""Each is one token after a space."""


def run(bench: Bench) -> Iterator[Comparison]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from nowag_exp.evaluation.zero_shot.lm import LoadedLM

    model, n_items = bench.model, 25 if bench.full else 4
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tokenizer = load_transformers_tokenizer(model.checkpoint.folder)
    draw = random.Random(0)
    requests = []
    for item in range(n_items):
        context = " ".join(draw.choices(WORDS, k=CONTEXT))
        for choice in range(CHOICES):
            answer = " " + " ".join(draw.choices(WORDS, k=ANSWER))
            requests.append(Instance("loglikelihood", {}, (context, answer), choice, ("made_up", item, 1)))

    def ours() -> None:
        # A new one each time: it remembers answers.
        LoadedLM(model, tokenizer, 2048, lambda: None).loglikelihood(requests)

    stock = HFLM(pretrained=model.module, tokenizer=tokenizer, batch_size=BATCH, add_bos_token=False)

    def plain_harness() -> None:
        stock.loglikelihood(requests, disable_tqdm=True)

    texts = [torch.tensor(tokenizer("".join(request.args), add_special_tokens=False).input_ids) for request in requests]
    batches = pad_sequence(texts, batch_first=True).split(BATCH)

    @torch.inference_mode()
    def plain_forward() -> None:
        for batch in batches:
            model.module(batch, use_cache=False)

    sizes = Architecture.of(model.checkpoint.config)
    n_tokens, n_answered = n_items * (CONTEXT + CHOICES * ANSWER), n_items * CHOICES * ANSWER
    head = 2.0 * n_answered * sizes.hidden_size * sizes.vocabulary
    work = Work(product=forward_operations(sizes, n_tokens, 1, head=False) + head)
    for name, plain in (
        ("zero-shot items, against lm-eval's own model", plain_harness),
        ("zero-shot items, against the forward of each text", plain_forward),
    ):
        yield bench.compare(name, ours, plain, work, Wanted(ratio=2.0))
