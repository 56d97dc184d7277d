"""Windows of tokens drawn from documents, as the papers draw them, with a hash of what was drawn."""

import hashlib
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from nowag_exp.errors import NowagError, RequestError
from nowag_exp.settings import Seed, settings
from nowag_exp.text.documents import Documents
from nowag_exp.text.encoded import EncodedDocuments, encode_document
from nowag_exp.text.tokenizer import Encode, Tokenizer

VERSION = 1
"""Raised when the same settings would draw other windows from the same documents."""

MOST_DRAWN = 100_000
"""Windows that can be drawn at random: more are no calibration, but a slip that would run for days."""


@settings
class Windows(ABC):
    """How windows of tokens are drawn from documents.

    Attributes:
        context_length: tokens of a window, its BOS included.
        sampling: ``random_in_document`` draws a document, draws again if it is shorter than a window, and then draws a
            start in it (SparseGPT's, Wanda's and NoWag's C4 and RedPajama loaders, with the same use of Python's
            generator, but for documents of exactly one window, which those reject or fail on); ``random`` draws starts
            in the joined documents (GPTQ's wikitext2 loader); ``sequential`` takes the first windows of the joined
            documents, without overlap; ``evenly_spaced`` takes windows of the same grid, spread over all of the joined
            documents.
        separator: joins the documents.
        bos: ``none``; ``first``: once, before the joined documents (or each drawn document); ``every``: each window
            opens with it.
        seed: of the draws.
    """

    context_length: int
    sampling: Literal["random_in_document", "random", "sequential", "evenly_spaced"]
    separator: str
    bos: Literal["none", "first", "every"]
    seed: Seed

    def __post_init__(self) -> None:
        if self.context_length < 2:
            raise ValueError(f"context_length: must be at least 2 tokens; got {self.context_length}")
        if "\\" in self.separator:
            # The command line leaves "\n" as two characters, which would silently join documents by those.
            raise ValueError(
                "separator: has a backslash, which the command line does not turn into a line end; write real ones, "
                f"in bash $'KEY=\"\\n\\n\"'; got {self.separator!r}"
            )

    @property
    @abstractmethod
    def key(self) -> str:
        """Where it stands in the config, for messages."""

    @property
    def is_random(self) -> bool:
        """Whether the seed matters."""
        return self.sampling in ("random_in_document", "random")

    def windows_identity(self) -> dict[str, Any]:
        """What fixes the windows, given the documents; what the sampling has no use for is left out."""
        return {
            "drawing": VERSION,
            "context_length": self.context_length,
            "sampling": self.sampling,
            "separator": None if self.sampling == "random_in_document" else self.separator,
            "bos": self.bos,
            "seed": self.seed if self.is_random else None,
        }


@dataclass(frozen=True)
class DrawnTokens:
    """Windows of token ids.

    Attributes:
        ids: one window a row.
        n_overlapping: windows that share text with another one.
        marked: names of the text's files whose byte-order mark was left out.
    """

    ids: Int64[Tensor, "windows context"]
    n_overlapping: int
    marked: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of number and length of the windows and then the ids, row by row, all as int64 little-endian."""
        numbers = torch.cat([torch.tensor(self.ids.shape), self.ids.flatten()])
        return hashlib.sha256(numbers.numpy().astype("<i8").tobytes()).hexdigest()


def draw(documents: Documents, tokenizer: Tokenizer, windows: Windows, n: int | None) -> DrawnTokens:
    """Draw ``n`` windows; ``None``, for sampling that is not random, takes all that are whole.

    Args:
        documents: in order.
        tokenizer: of the model.
        windows: how to draw.
        n: number of windows.

    Raises:
        RequestError: if the text is too short (it says how many tokens there are and how many are needed), or a BOS
            is asked of a tokenizer without one, or the tokenizer refuses a document (it says which).
    """
    bos_token, where = tokenizer.bos, windows.key
    if windows.bos != "none" and bos_token is None:
        raise RequestError(f"{where}.bos={windows.bos}: the model's tokenizer has no BOS token; set {where}.bos=none")
    prefix = [] if bos_token is None else [bos_token]
    first = prefix if windows.bos == "first" else []
    every = prefix if windows.bos == "every" else []
    length = windows.context_length - len(every)
    if windows.sampling == "random_in_document":
        assert n is not None
        encoded = EncodedDocuments(documents, tokenizer.encode, first)
        spans = _draw_in_documents(encoded, length, n, windows.seed, where)
    elif windows.sampling == "random":
        assert n is not None
        stream = first + _encode_joined(documents, tokenizer.encode, windows.separator)
        spans = _draw_in_stream(stream, length, n, windows.seed, where)
    elif windows.sampling == "evenly_spaced":
        stream = first + _encode_joined(documents, tokenizer.encode, windows.separator)
        spans = _evenly_spaced(_grid(stream, length, n or 1, where), n)
    else:
        needed = None if n is None else n * length
        stream = first + _first_tokens(documents, tokenizer.encode, windows.separator, needed)
        spans = _grid(stream, length, n or 1, where)[:n]
    ids = torch.tensor([every + span.tokens for span in spans], dtype=torch.int64)
    return DrawnTokens(ids, _count_overlapping(spans, length), documents.marked)


@dataclass(frozen=True)
class _Span:
    document: int
    start: int
    tokens: list[int]


def _draw_in_documents(documents: EncodedDocuments, length: int, n: int, seed: int, where: str) -> list[_Span]:
    generator = random.Random(seed)
    too_short: dict[int, int] = {}
    spans: list[_Span] = []
    while len(spans) < n:
        if len(too_short) == len(documents):
            raise RequestError(
                f"{where}: the longest of {len(documents)} documents has {max(too_short.values(), default=0)} tokens, "
                f"but {length} are needed; set a smaller {where}.context_length, or {where}.sampling=random to draw "
                "from the joined documents"
            )
        index = generator.randint(0, len(documents) - 1)
        if index in too_short:
            continue
        tokens = documents.tokens(index)
        if len(tokens) < length:
            too_short[index] = len(tokens)
            continue
        start = _draw_start(generator, len(tokens), length)
        spans.append(_Span(index, start, list(tokens[start : start + length])))
    return spans


def _encode_joined(documents: Documents, encode: Encode, separator: str) -> list[int]:
    try:
        return encode(separator.join(documents))
    except NowagError:
        raise
    except Exception:
        for index in range(len(documents)):
            encode_document(documents, index, encode)
        raise


def _draw_in_stream(stream: list[int], length: int, n: int, seed: int, where: str) -> list[_Span]:
    if len(stream) < length:
        raise _too_short(where, len(stream), length)
    generator = random.Random(seed)
    starts = [_draw_start(generator, len(stream), length) for _ in range(n)]
    return [_Span(0, start, stream[start : start + length]) for start in starts]


def _draw_start(generator: random.Random, available: int, length: int) -> int:
    # The papers' loaders draw from [0, available - length - 1]. An exact fit leaves nothing to draw: GPTQ's fails on
    # it, Wanda's draws another document; here it starts at 0.
    return 0 if available == length else generator.randint(0, available - length - 1)


def _grid(stream: list[int], length: int, at_least: int, where: str) -> list[_Span]:
    """All whole windows of the stream, side by side."""
    count = len(stream) // length
    if count < at_least:
        raise _too_short(where, len(stream), at_least * length)
    return [_Span(0, i * length, stream[i * length : (i + 1) * length]) for i in range(count)]


def _evenly_spaced(spans: list[_Span], n: int | None) -> list[_Span]:
    if n is None:
        return spans
    return [spans[i * len(spans) // n] for i in range(n)]


def _first_tokens(documents: Documents, encode: Encode, separator: str, needed: int | None) -> list[int]:
    """The first tokens of the joined documents, at least ``needed`` if there are so many; all of them if ``None``.

    The text is encoded joined, since the boundary of two documents may be inside a token. Of a large corpus only the
    start is: a cut can change the tokens beside it, so as many again as are needed, and 1024 more, lie before it.
    """
    count = len(documents) if needed is None else 16
    while True:
        tokens = _encode_joined(documents[:count], encode, separator)
        if needed is None or count >= len(documents) or len(tokens) >= 2 * needed + 1024:
            return tokens
        count *= 4


def _too_short(where: str, has: int, needed: int) -> RequestError:
    return RequestError(
        f"{where}: the text has {has} tokens, but {needed} are needed; "
        "give more text, or ask for fewer or shorter windows"
    )


def _count_overlapping(spans: list[_Span], length: int) -> int:
    overlapping: set[int] = set()
    order = sorted(range(len(spans)), key=lambda i: (spans[i].document, spans[i].start))
    for left, right in pairwise(order):
        same = spans[left].document == spans[right].document
        if same and spans[right].start < spans[left].start + length:
            overlapping |= {left, right}
    return len(overlapping)
