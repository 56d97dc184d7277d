"""Zero-shot scoring against lm-eval's own model class, and against the plain transformers forward on the same texts."""

import logging
import random

import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.timing import Comparison, compare
from nowag_exp.models import CausalLM
from nowag_exp.text import load_transformers_tokenizer

ITEMS, CHOICES, CONTEXT, ANSWER, BATCH = 25, 4, 40, 8, 16
WORDS = ["time", "year", "people", "way", "day", "man", "thing", "life", "world", "school", "house", "water", "night"]
"""Each is one token after a space."""


def run(model: CausalLM) -> list[Comparison]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from nowag_exp.evaluation.zero_shot.lm import LoadedLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tokenizer = load_transformers_tokenizer(model.checkpoint.folder)
    draw = random.Random(0)
    requests = []
    for item in range(ITEMS):
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

    return [
        compare("zero-shot items, against lm-eval's own model", ours, plain_harness, 3, 2.0),
        compare("zero-shot items, against the forward of each text", ours, plain_forward, 3, 2.0),
    ]
