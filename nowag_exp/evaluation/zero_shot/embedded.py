"""Multiple-choice items made from the packaged Wikipedia articles: zero-shot tasks that need no download.

They are no published benchmark, and their accuracies compare with nothing but each other. An item is made of one
sentence of an article:

- ``wiki_continuation``: after the rest of the sentence, its last four words, against the last four words, about as
  long, of sentences of three other articles. Chance is 1/4.
- ``wiki_last_word``: after the six words before it, the last word, against three words that end other sentences: about
  as frequent and as long, ending alike where there are such, and not in the sentence, nor another form of a word that
  is. Chance is 1/4.
- ``wiki_word_order``: after the two words before them, two words next to each other in the sentence, against the same
  two swapped. Chance is 1/2.

They are made from the articles alone, without a tokenizer, so all models are asked the same.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TypeVar

from nowag_exp.files import atomic_write

VERSION = 1
"""Raised when the same articles would give other items."""

SEED = 0

N_ITEMS = 300
"""Items of a task, at most."""

N_WORDS = range(8, 17)
"""Words of the sentences: short ones, since each token costs."""

CONTINUATION_WORDS = 4
WORDS_BEFORE_LAST = 6
WORDS_BEFORE_SWAPPED = 2

LENGTH_SLACK = 3
"""Characters by which the length of a wrong choice may differ from the true one's."""

RAREST = 6
"""Occurrences of a last word in all articles: frequent words are one token for most tokenizers, and single tokens after
the same context share a forward pass."""

TEMPLATES = Path(__file__).with_name("tasks")
"""The tasks as lm-eval reads them, but for the folder that the items lie in."""

# After an abbreviation or an initial no sentence ends: the last word of one ends in three small letters.
SENTENCE_END = re.compile(r"(?<=[a-z]{3}\.) (?=[A-Z])")
# Words of ASCII letters and digits, and commas: no brackets, quotations or formulas, whole or cut in half.
CLEAN = re.compile(r"[A-Z][A-Za-z'-]*(,? [A-Za-z0-9][A-Za-z0-9'-]*)* [a-z]{3,}\.")
WORD = re.compile(r"\b[a-z]{2,}\b")
# Shorter ones are mostly articles, prepositions and pronouns: out of place they stand out even to a damaged model.
SWAPPED_WORD = re.compile(r"[a-z]{5,}")

Words = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        context: of the sentence; a space and a choice follow.
        choices: one of them is what follows in the article.
        target: index of that one.
        article: index of the article.
    """

    context: str
    choices: tuple[str, ...]
    target: int
    article: int


@dataclass(frozen=True)
class _Sentence:
    article: int
    words: Words


@dataclass(frozen=True)
class _Question:
    article: int
    context: Words
    true: str
    wrong: Words


def derive(articles: Sequence[str]) -> dict[str, list[Item]]:
    """Items of each task, at most 300. No sentence is in two of them.

    Args:
        articles: paragraphs separated by blank lines. Each has its turn in each round, so that any number of first
            items is of as many articles as it can be.
    """
    generator = random.Random(SEED)
    # The sentences of an article are dealt out to the tasks in turn; beside each is the round in which it is taken.
    pools: list[list[tuple[int, _Sentence]]] = [[], [], []]
    seen: set[Words] = set()
    for index, article in enumerate(articles):
        new = [words for words in _sentences(article) if words not in seen]
        seen.update(new)
        for number, words in enumerate(_shuffled(new, generator)):
            pools[(index + number) % 3].append((number // 3, _Sentence(index, words)))
    first, second, third = ([sentence for _, sentence in sorted(pool, key=lambda entry: entry[0])] for pool in pools)
    return {
        "wiki_continuation": _items(_continuations(first, generator), generator),
        "wiki_last_word": _items(_last_words(second, articles, generator), generator),
        "wiki_word_order": _items(_word_orders(third, generator), generator),
    }


def write(folder: Path, items: Mapping[str, Sequence[Item]]) -> None:
    """Write each task as ``TASK.jsonl`` and ``TASK.yaml``, which lm-eval reads: ``lm_eval --include_path FOLDER``."""
    for task, questions in items.items():
        data = folder.absolute() / f"{task}.jsonl"
        with atomic_write(data) as temporary:
            temporary.write_text("".join(json.dumps(asdict(item)) + "\n" for item in questions), encoding="utf-8")
        config = (TEMPLATES / f"{task}.yaml").read_text(encoding="utf-8")
        with atomic_write(data.with_suffix(".yaml")) as temporary:
            # A JSON string is one in YAML, whatever characters are in the path.
            config = config.replace(f"test: {data.name}", f"test: {json.dumps(str(data))}")
            temporary.write_text(config, encoding="utf-8")


def _sentences(article: str) -> list[Words]:
    """Words of the suitable sentences, without the full stop; each once."""
    found = (text for paragraph in article.split("\n\n") for text in SENTENCE_END.split(paragraph))
    clean = (tuple(text.removesuffix(".").split()) for text in found if CLEAN.fullmatch(text))
    return list(dict.fromkeys(words for words in clean if len(words) in N_WORDS))


def _shuffled(values: Sequence[T], generator: random.Random) -> list[T]:
    # By random() alone: of all methods only its values are promised to be the same in each version of Python.
    return sorted(values, key=lambda _: generator.random())


def _continuations(sentences: list[_Sentence], generator: random.Random) -> Iterator[_Question]:
    for sentence in sentences:
        context, true = sentence.words[:-CONTINUATION_WORDS], _ending(sentence)
        wrong: dict[int, str] = {}
        for other in _shuffled(sentences, generator):
            text, taken = _ending(other), {true, *wrong.values()}
            known = other.article == sentence.article or other.article in wrong
            if not known and abs(len(text) - len(true)) <= LENGTH_SLACK and text not in taken:
                wrong[other.article] = text
            if len(wrong) == 3:
                yield _Question(sentence.article, context, true, tuple(wrong.values()))
                break


def _ending(sentence: _Sentence) -> str:
    return " ".join(sentence.words[-CONTINUATION_WORDS:])


def _last_words(sentences: list[_Sentence], articles: Sequence[str], generator: random.Random) -> Iterator[_Question]:
    counts = Counter(WORD.findall("\n".join(articles)))
    endings = sorted({sentence.words[-1] for sentence in sentences if counts[sentence.words[-1]] >= RAREST})
    for sentence in sentences:
        *before, true = sentence.words
        if counts[true] < RAREST or any(_akin(true, word) for word in before):
            continue
        wrong: list[str] = []
        # Those that end alike first: they are more often of the same class, number or tense.
        for word in sorted(_shuffled(endings, generator), key=lambda word: -_shared_ending(word, true)):
            frequent_alike = counts[true] <= 2 * counts[word] <= 4 * counts[true]
            long_alike = abs(len(word) - len(true)) <= LENGTH_SLACK
            if frequent_alike and long_alike and not any(_akin(word, known) for known in (*sentence.words, *wrong)):
                wrong.append(word)
        if len(wrong) >= 3:
            yield _Question(sentence.article, tuple(before[-WORDS_BEFORE_LAST:]), true, tuple(wrong[:3]))


def _akin(one: str, other: str) -> bool:
    """Whether they may be forms of one word: equal in their first four letters."""
    return one[:4] == other.lower()[:4]


def _shared_ending(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reversed(one), reversed(other), strict=False)))


def _word_orders(sentences: list[_Sentence], generator: random.Random) -> Iterator[_Question]:
    for sentence in sentences:
        pairs = [
            (i, first, second)
            for i, (first, second) in enumerate(pairwise(sentence.words))
            if i >= WORDS_BEFORE_SWAPPED and SWAPPED_WORD.fullmatch(first) and SWAPPED_WORD.fullmatch(second)
        ]
        if not pairs:
            continue
        i, first, second = pairs[int(generator.random() * len(pairs))]
        if first != second:
            context = sentence.words[i - WORDS_BEFORE_SWAPPED : i]
            yield _Question(sentence.article, context, f"{first} {second}", (f"{second} {first}",))


def _items(questions: Iterator[_Question], generator: random.Random) -> list[Item]:
    """The first questions, each once, with the true choice at each index equally often."""
    taken: dict[tuple[Words, str], _Question] = {}
    for question in questions:
        taken.setdefault((question.context, question.true), question)
        if len(taken) == N_ITEMS:
            break
    n_choices = 1 + max((len(question.wrong) for question in taken.values()), default=0)
    targets = _shuffled([number % n_choices for number in range(len(taken))], generator)
    items = []
    for question, target in zip(taken.values(), targets, strict=True):
        choices = list(question.wrong)
        choices.insert(target, question.true)
        items.append(Item(" ".join(question.context), tuple(choices), target, question.article))
    return items
