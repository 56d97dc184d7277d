import random
import struct
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nowag_exp.errors import RequestError
from nowag_exp.text import DrawnTokens, Tokenizer, Windows, sampling
from nowag_exp.text import encoded as encoded_documents
from tests.text.documents import given_texts

BOS = 999
BYTES = Tokenizer(encode=lambda text: list(text.encode()), bos=BOS)


class Drawn(Windows):
    key = "calibration"


def draw(texts: list[str], tokenizer: Tokenizer, windows: Windows, n: int | None) -> DrawnTokens:
    return sampling.draw(given_texts(*texts), tokenizer, windows, n)


def windows(sampling: str, length: int = 4, bos: str = "none", seed: int = 0, separator: str = "|") -> Windows:
    return Drawn(context_length=length, sampling=sampling, separator=separator, bos=bos, seed=seed)


def rows(*args: object, **kwargs: object) -> list[list[int]]:
    return draw(*args, **kwargs).ids.tolist()


def text_of(row: list[int]) -> str:
    return bytes(row).decode()


def test_sequential_takes_the_first_windows_of_the_joined_documents() -> None:
    drawn = rows(["abc", "defg", "hi"], BYTES, windows("sequential"), 2)
    assert [text_of(row) for row in drawn] == ["abc|", "defg"]


def test_sequential_without_a_number_takes_all_whole_windows_and_drops_the_rest() -> None:
    drawn = rows(["abc", "defg", "hi"], BYTES, windows("sequential"), None)
    assert [text_of(row) for row in drawn] == ["abc|", "defg"]  # "|hi" is not whole


def test_sequential_reads_no_more_of_a_large_corpus_than_it_needs_and_gives_the_same() -> None:
    documents = [f"document {i} " * 40 for i in range(200)]
    seen: list[int] = []

    def encode(text: str) -> list[int]:
        seen.append(len(text))
        return list(text.encode())

    few = rows(documents, Tokenizer(encode, None), windows("sequential", 8), 3)
    assert few == rows(documents, BYTES, windows("sequential", 8), None)[:3]
    assert max(seen) < sum(map(len, documents)) / 2


def test_evenly_spaced_windows_lie_on_the_grid_from_the_first_to_the_last_part() -> None:
    drawn = rows(["aaaabbbbccccddddeeeeffff"], BYTES, windows("evenly_spaced"), 3)
    assert [text_of(row) for row in drawn] == ["aaaa", "cccc", "eeee"]
    assert rows(["aaaabbbb"], BYTES, windows("evenly_spaced"), None) == rows(
        ["aaaabbbb"], BYTES, windows("sequential"), None
    )


def test_random_in_document_uses_the_generator_as_the_papers_loaders_do() -> None:
    documents = ["abcdefghij", "xy", "0123456789abcdef"]
    generator, expected = random.Random(7), []
    while len(expected) < 5:
        document = documents[generator.randint(0, len(documents) - 1)]
        if len(document) > 4:
            start = generator.randint(0, len(document) - 4 - 1)
            expected.append(document[start : start + 4])
    drawn = rows(documents, BYTES, windows("random_in_document", seed=7), 5)
    assert [text_of(row) for row in drawn] == expected


def test_random_draws_starts_in_the_joined_documents_as_gptq_does() -> None:
    stream = "abcdef|ghijkl"
    generator = random.Random(3)
    starts = [generator.randint(0, len(stream) - 4 - 1) for _ in range(6)]
    drawn = rows(["abcdef", "ghijkl"], BYTES, windows("random", seed=3), 6)
    assert [text_of(row) for row in drawn] == [stream[s : s + 4] for s in starts]


def test_a_document_of_exactly_one_window_is_taken_whole() -> None:
    assert rows(["abcd"], BYTES, windows("random_in_document"), 2) == [list(b"abcd")] * 2
    assert rows(["abcd"], BYTES, windows("random"), 1) == [list(b"abcd")]


def test_bos_first_opens_the_joined_text_once() -> None:
    assert rows(["abcdefg"], BYTES, windows("sequential", bos="first"), None) == [[BOS, *b"abc"], [*b"defg"]]


def test_bos_first_opens_each_drawn_document() -> None:
    assert rows(["abc"], BYTES, windows("random_in_document", bos="first"), 1) == [[BOS, *b"abc"]]


def test_bos_every_opens_every_window_and_counts_towards_its_length() -> None:
    assert rows(["abcdefg"], BYTES, windows("sequential", bos="every"), None) == [[BOS, *b"abc"], [BOS, *b"def"]]
    for row in rows(["abcdefgh"], BYTES, windows("random", bos="every"), 5):
        assert row[0] == BOS
        assert len(row) == 4


def test_a_bos_that_the_tokenizer_lacks_is_refused() -> None:
    with pytest.raises(RequestError, match=r"calibration\.bos=first: the model's tokenizer has no BOS.*bos=none"):
        draw(["abcd"], Tokenizer(BYTES.encode, None), windows("sequential", bos="first"), 1)


@pytest.mark.parametrize("sampling", ["sequential", "random", "evenly_spaced"])
def test_text_that_is_too_short_says_how_many_tokens_there_are_and_are_needed(sampling: str) -> None:
    with pytest.raises(RequestError, match="calibration: the text has 3 tokens, but 4 are needed"):
        draw(["abc"], BYTES, windows(sampling), 1)


def test_too_few_windows_say_how_many_tokens_are_needed() -> None:
    with pytest.raises(RequestError, match="the text has 9 tokens, but 12 are needed"):
        draw(["abcdefghi"], BYTES, windows("sequential"), 3)


def test_documents_that_are_all_too_short_end_in_an_error_not_in_a_loop() -> None:
    with pytest.raises(RequestError, match=r"longest of 3 documents has 3 tokens, but 4 are needed.*sampling=random"):
        draw(["a", "ab", "abc"], BYTES, windows("random_in_document"), 1)


def test_the_hash_is_of_the_shape_and_the_ids_as_int64_little_endian() -> None:
    drawn = draw(["abcdefgh"], BYTES, windows("sequential"), None)
    assert drawn.sha256 == sha256(struct.pack("<10q", 2, 4, *b"abcdefgh")).hexdigest()


def test_windows_that_share_text_are_counted() -> None:
    assert draw(["abcd"], BYTES, windows("random"), 3).n_overlapping == 3
    assert draw(["abcdefgh"], BYTES, windows("sequential"), None).n_overlapping == 0
    assert draw(["abcd", "efgh"], BYTES, windows("random_in_document", seed=1), 1).n_overlapping == 0


@given(seed=st.integers(0, 999), n=st.integers(1, 9), sampling=st.sampled_from(["random_in_document", "random"]))
def test_the_same_seed_draws_the_same_windows(seed: int, n: int, sampling: str) -> None:
    documents = ["the quick brown fox", "jumps over", "the lazy dog"]
    first = draw(documents, BYTES, windows(sampling, seed=seed), n)
    assert first.sha256 == draw(documents, BYTES, windows(sampling, seed=seed), n).sha256
    assert tuple(first.ids.shape) == (n, 4)


def test_a_seed_that_does_not_matter_is_not_part_of_the_identity() -> None:
    assert windows("sequential", seed=0).windows_identity() == windows("sequential", seed=1).windows_identity()
    assert windows("random", seed=0).windows_identity() != windows("random", seed=1).windows_identity()


def test_an_escape_that_the_command_line_left_as_it_is_is_refused() -> None:
    with pytest.raises(ValueError, match=r"separator: has a backslash.* in bash \$'KEY=\"\\n\\n\"'; got '\\\\n\\\\n'"):
        windows("sequential", separator="\\n\\n")
    assert windows("sequential", separator="\n\n").separator == "\n\n"


@given(
    seed=st.integers(0, 99), bos=st.sampled_from(["none", "first", "every"]), most_kept=st.sampled_from([0, 20, 999])
)
def test_documents_that_are_kept_give_the_draws_of_encoding_each_time(seed: int, bos: str, most_kept: int) -> None:
    documents = ["abcdefghij", "xy", "0123456789abcdef", "four", "αβγδε"]
    generator, expected, length = random.Random(seed), [], 3 if bos == "every" else 4
    while len(expected) < 12:
        encoded = [BOS] * (bos == "first") + BYTES.encode(documents[generator.randint(0, len(documents) - 1)])
        if len(encoded) >= length:
            start = 0 if len(encoded) == length else generator.randint(0, len(encoded) - length - 1)
            expected.append([BOS] * (bos == "every") + encoded[start : start + length])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded_documents, "MOST_KEPT", most_kept)
        assert rows(documents, BYTES, windows("random_in_document", bos=bos, seed=seed), 12) == expected


def test_a_drawn_document_is_encoded_once_and_others_are_not_read() -> None:
    seen: list[str] = []

    def encode(text: str) -> list[int]:
        seen.append(text)
        return list(text.encode())

    texts = [f"document {number}" for number in range(1000)]
    texts[500] = None
    draw(texts, Tokenizer(encode, None), windows("random_in_document"), 100)
    assert len(seen) == len(set(seen)) <= 100
    seen.clear()
    draw(["a long document"], Tokenizer(encode, None), windows("random_in_document"), 128)
    assert seen == ["a long document"]


@pytest.mark.parametrize("sampling", ["random_in_document", "random", "sequential", "evenly_spaced"])
def test_a_document_that_the_tokenizer_refuses_is_named(sampling: str) -> None:
    def encode(text: str) -> list[int]:
        if "?" in text:
            raise TypeError("TextInputSequence must be str")
        return list(text.encode())

    with pytest.raises(RequestError, match=r"given: document 2: .*TextInputSequence"):
        draw(["abcdef", "abc?ef"], Tokenizer(encode, None), windows(sampling), 9 if "random" in sampling else 2)
