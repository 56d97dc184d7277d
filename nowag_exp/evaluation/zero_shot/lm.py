"""A loaded model as lm-eval sees one; imports lm-eval, so it is imported where it is used."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from lm_eval.models.huggingface import HFLM

from nowag_exp.errors import NowagError
from nowag_exp.evaluation.zero_shot.continuations import Answer, Continuations
from nowag_exp.models.blocks import CausalLM
from nowag_exp.progress import Stage


class LoadedLM(HFLM):
    """lm-eval's own tokenization and truncation over our log-likelihoods; the model is used in place, not copied.

    Args:
        model: as it is now, compressed or not.
        tokenizer: of transformers; lm-eval gives it a padding token.
        batch_tokens: as :class:`Continuations` takes it.
        tick: called once for each item that is answered.
        stage: shows how far a streamed model is.

    Attributes:
        bos: whether BOS opens each text.
        encoded: token ids of the last requests, as they were answered.
        truncated: which of them were too long and lost the beginning of their context.
    """

    bos: Literal["none", "first"] = "none"

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Any,
        batch_tokens: int,
        tick: Callable[[], None],
        stage: Stage | None = None,
    ) -> None:
        super().__init__(pretrained=model.module, tokenizer=tokenizer, backend="causal")
        self._continuations = Continuations(model, batch_tokens, stage)
        self._tick = tick
        self._owners: list[tuple[str | None, int | None]] = []
        self.encoded: list[tuple[list[int], list[int]]] = []
        self.truncated: list[bool] = []

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Token ids; BOS is put before a text by us, since not every tokenizer that has one does so."""
        ids = super().tok_encode(string, add_special_tokens=False, **options)
        opens_with_it = ids[:1] == [self.tokenizer.bos_token_id]
        if self.bos == "none" or add_special_tokens is False or opens_with_it:
            return ids
        return [self.tokenizer.bos_token_id, *ids]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Answer]:
        """Called by lm-eval, once a suite."""
        self._owners = [(request.task_name, request.doc_id) for request in requests]
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[Answer]:
        self.encoded, self.truncated = [], []
        for (context, continuation), context_ids, continuation_ids in requests:
            if not context_ids or not 0 < len(continuation_ids) <= self.max_length:
                raise NowagError(
                    f"zero-shot evaluation: {continuation[:40]!r} after {context[-40:]!r} is "
                    f"{len(continuation_ids)} tokens after {len(context_ids)}; there must be 1 to {self.max_length} "
                    "after at least 1"
                )
            # The last token is predicted, not read, so one more than the model's positions has room.
            room = self.max_length + 1 - len(continuation_ids)
            self.encoded.append((context_ids[-room:], continuation_ids))
            self.truncated.append(len(context_ids) > room)
        left = Counter(self._owners)

        def done(index: int) -> None:
            owner = self._owners[index]
            left[owner] -= 1
            if not left[owner]:
                self._tick()

        return self._continuations(self.encoded, done)
