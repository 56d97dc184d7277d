"""Log-likelihoods of continuations, in batches; a context is computed once, whatever the number that follow it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nowag_exp.errors import NowagError
from nowag_exp.evaluation.windows import LOGITS_AT_ONCE, token_losses
from nowag_exp.models.batch import CONTEXT, PADDING, Batch
from nowag_exp.models.blocks import CausalLM
from nowag_exp.progress import Stage

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of a continuation, neither of them empty."""

Answer = tuple[float, bool]
"""``log P(continuation | context)`` in nats, and whether each of its tokens is the likeliest one."""

Key = tuple[bytes, bytes]
"""A pair as bytes: lists of Python integers would take ten times the memory."""

GPU_FACTOR = 16
"""A GPU starts with batches so many times as large; what does not fit is computed in parts."""


@dataclass(frozen=True)
class Tree:
    """A context with the continuations that branch off it, as one row of tokens.

    The last token of a continuation is predicted but never read, so it is no part of the row, and continuations of one
    token add nothing to their context.

    Attributes:
        ids: the context, then the tokens of each branch.
        positions: of each token in its own text.
        branches: 0 for the context, then 1, 2, ...
        keys: the pairs that the row answers.
        predictors: for each of them, where in the row each token of its continuation is predicted.
    """

    ids: list[int]
    positions: list[int]
    branches: list[int]
    keys: list[Key]
    predictors: list[list[int]]

    @classmethod
    def grow(cls, context: bytes, continuations: Sequence[bytes]) -> "Tree":
        """Lay out the row; continuations that differ in their last token only share a branch."""
        ids = _unpack(context)
        n_context = len(ids)
        positions, branches = list(range(n_context)), [CONTEXT] * n_context
        predictors: list[list[int]] = []
        starts: dict[tuple[int, ...], int] = {}
        for continuation in continuations:
            stem = tuple(_unpack(continuation)[:-1])
            if stem and stem not in starts:
                starts[stem] = len(ids)
                ids += stem
                positions += range(n_context, n_context + len(stem))
                branches += [len(starts)] * len(stem)
            start = starts.get(stem, 0)
            predictors.append([n_context - 1, *range(start, start + len(stem))])
        return cls(ids, positions, branches, [(context, continuation) for continuation in continuations], predictors)


class Continuations:
    """Answers pairs with a model, and remembers the answers.

    Args:
        model: on any device, with causal attention.
        batch_tokens: tokens of one forward pass, padding included; at least one row is taken. A GPU starts with
            ``GPU_FACTOR`` times as many.
        stage: shows how far a streamed model is.
    """

    def __init__(self, model: CausalLM, batch_tokens: int, stage: Stage | None = None) -> None:
        self._model, self._stage = model, stage
        self._batch_tokens = batch_tokens * (GPU_FACTOR if model.device.type == "cuda" else 1)
        self._known: dict[Key, Answer] = {}

    def __call__(self, pairs: Sequence[Pair], done: Callable[[int], None]) -> list[Answer]:
        """Answer each pair.

        ``log P(y_1..y_n | x) = Σ_i log softmax(logits(x, y_1..y_{i-1}))[y_i]``; logits in the model's dtype, softmax in
        fp32, sum in fp64.

        Args:
            pairs: contexts and continuations.
            done: called with the index of a pair as soon as its answer is known.

        Raises:
            NowagError: if an answer is not finite, or not even one row fits into memory.
        """
        keys = [(_pack(context), _pack(continuation)) for context, continuation in pairs]
        waiting: dict[Key, list[int]] = {}
        for index, key in enumerate(keys):
            if key in self._known:
                done(index)
            else:
                waiting.setdefault(key, []).append(index)
        by_context: dict[bytes, list[bytes]] = {}
        for context, continuation in waiting:
            by_context.setdefault(context, []).append(continuation)
        # The longest first: rows of a batch are of like length.
        trees = sorted((Tree.grow(*item) for item in by_context.items()), key=lambda tree: len(tree.ids), reverse=True)

        def answered(key: Key) -> None:
            for index in waiting[key]:
                done(index)

        self._answer_all(trees, answered)
        return [self._known[key] for key in keys]

    def _answer_all(self, trees: list[Tree], answered: Callable[[Key], None]) -> None:
        """Work the rows off in batches."""
        batches: list[list[Tree]] = []
        for tree in trees:
            if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].ids) > self._batch_tokens:
                batches.append([])
            batches[-1].append(tree)
        states = self._model.last_hidden([_batch(trees) for trees in batches], stage=self._stage)
        for batch, hidden in zip(batches, states, strict=True):
            for tree, answers in zip(batch, self._answer(batch, hidden), strict=True):
                for key, answer in zip(tree.keys, answers, strict=True):
                    self._known[key] = answer
                    answered(key)

    @torch.inference_mode()
    def _answer(self, batch: Sequence[Tree], hidden: Float[Tensor, "rows context hidden"]) -> list[list[Answer]]:
        """The answers of each row, from the last hidden states.

        Logits are computed only where a token of a continuation is predicted, a slice of them at a time.
        """
        where, lengths, targets = [], [], []
        for row, tree in enumerate(batch):
            for (_, continuation), predictors in zip(tree.keys, tree.predictors, strict=True):
                where += [row * hidden.shape[1] + predictor for predictor in predictors]
                lengths.append(len(predictors))
                targets += _unpack(continuation)
        states = hidden.flatten(0, 1)[torch.tensor(where, device=hidden.device)]
        wanted = torch.tensor(targets, device=hidden.device)
        n_rows = max(1, LOGITS_AT_ONCE // self._model.module.config.vocab_size)
        losses, likeliest = [], []
        for part, part_wanted in zip(states.split(n_rows), wanted.split(n_rows), strict=True):
            logits = self._model.logits(part).float()
            likeliest.append((logits.argmax(dim=1) == part_wanted).cpu())
            losses.append(token_losses(logits, part_wanted).cpu().double())
        sums = torch.stack([part.sum() for part in torch.cat(losses).split(lengths)])
        greedy = [bool(part.all()) for part in torch.cat(likeliest).split(lengths)]
        bad = int((~torch.isfinite(sums)).sum())
        if bad:
            raise NowagError(
                f"zero-shot evaluation: {bad} of {len(sums)} continuations have NaN or infinite log-likelihood; "
                f"{self._model.why_not_finite()}"
            )
        answers = iter(zip((-sums).tolist(), greedy, strict=True))
        return [[next(answers) for _ in tree.keys] for tree in batch]


def _batch(trees: Sequence[Tree]) -> Batch:
    """Rows of one length. Without a fork a row is an ordinary text: what stands before its padding does not see it."""
    ids, branches = _padded([tree.ids for tree in trees], 0), _padded([tree.branches for tree in trees], PADDING)
    if not bool((branches > 1).any()):
        return Batch(ids)
    return Batch(ids, _padded([tree.positions for tree in trees], 0), branches)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Int64[Tensor, "batch row"]:
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value)


def _pack(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, dtype="<i4").tobytes()


def _unpack(packed: bytes) -> list[int]:
    return np.frombuffer(packed, dtype="<i4").tolist()
