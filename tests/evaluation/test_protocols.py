"""The published perplexity protocols, from their YAML files to token ids.

Each rule is written down again below, straight from the papers' loaders as docs/protocols.md describes them, and must
give the same ids; small cases are worked out by hand. Only the texts' place and their sizes are overridden.
"""

import gzip
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from nowag_exp.compose import compose
from nowag_exp.config import build, build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import HubPerplexity
from nowag_exp.text import Tokenizer

Ids = list[list[int]]
BOS = 256


def protocol(name: str, data_dir: Path, *overrides: str) -> HubPerplexity:
    """The evaluation of ``conf/evaluation/NAME.yaml`` on local copies; ``overrides`` are of its own keys."""
    own = [f"evaluation.{name}.{override}" for override in overrides]
    config = compose([f"evaluation={name}", f"data_dir={data_dir}", *own])
    return build(config["evaluation"][name], f"evaluation.{name}", HubPerplexity)


def rows_of(text: HubPerplexity, tokenizer: Tokenizer) -> Ids:
    return text.tokens(tokenizer).ids.tolist()


FILES = {
    "wikitext2": "Salesforce/wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet",
    "ptb": "ptb-text-only/ptb_text_only/penn_treebank/test/0000.parquet",
    "c4_joined": "allenai/c4/en/c4-validation.00000-of-00008.json.gz",
    "c4_windows": "allenai/c4/en/c4-validation.00000-of-00008.json.gz",
}


def put(data_dir: Path, name: str, texts: list[str]) -> Path:
    """Write texts as the hub's file of this protocol, where ``hf download`` would put it."""
    path = data_dir / FILES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame({"sentence" if name == "ptb" else "text": texts}).to_parquet(path)
    else:
        lines = [json.dumps({"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "x"}) for text in texts]
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return data_dir


def encode_bytes(text: str) -> list[int]:
    return list(text.encode())


def encode_pieces(text: str) -> list[int]:
    """Pieces of up to three letters, with the white space before them: some lie across the ends of documents."""
    return [1000 + int.from_bytes(piece.encode()) % 2**31 for piece in re.findall(r"\s*\w{1,3}|\s+|.", text)]


TOKENIZERS = pytest.mark.parametrize(
    ("encode", "bos"), [(encode_bytes, None), (encode_bytes, BOS), (encode_pieces, None), (encode_pieces, BOS)]
)


def without_bos(bos: int | None) -> list[str]:
    """The protocols ask for a BOS, which a tokenizer without one can only be spared explicitly."""
    return ["bos=none"] if bos is None else []


def texts(seed: int, n: int, longest: int) -> list[str]:
    generator = random.Random(seed)
    words = ["the", "a", "river", "of", "stones", "é", "runs", "by", "night", "."]
    return [" ".join(generator.choices(words, k=generator.randint(0, longest))) for _ in range(n)]


# The rules, written down again.


def joined_then_cut(text: str, encode: Callable[[str], list[int]], bos: int | None, context: int) -> Ids:
    ids = encode(text)
    if bos is not None:
        ids = [bos, *ids]
    n_windows = len(ids) // context
    windows = []
    for number in range(n_windows):
        windows.append(ids[number * context : (number + 1) * context])
    return windows


def drawn_in_documents(
    documents: list[str], encode: Callable[[str], list[int]], bos: int | None, context: int, n_windows: int
) -> Ids:
    random.seed(0)
    windows = []
    for _ in range(n_windows):
        while True:
            number = random.randint(0, len(documents) - 1)
            ids = encode(documents[number])
            if bos is not None:
                ids = [bos, *ids]
            if len(ids) >= context:
                break
        if len(ids) == context:
            windows.append(ids)
            continue
        start = random.randint(0, len(ids) - context - 1)
        windows.append(ids[start : start + context])
    return windows


@TOKENIZERS
@pytest.mark.parametrize("context", [7, 64])
def test_wikitext2_is_all_rows_joined_by_blank_lines_and_cut(
    tmp_path: Path, encode: Callable[[str], list[int]], bos: int | None, context: int
) -> None:
    rows = [f" {text} \n" if text else "" for text in texts(1, 200, 12)]
    assert "" in rows, "as between the paragraphs of Wikitext2"
    text = protocol("wikitext2", put(tmp_path, "wikitext2", rows), f"context_length={context}", *without_bos(bos))
    assert rows_of(text, Tokenizer(encode, bos)) == joined_then_cut("\n\n".join(rows), encode, bos, context)


@TOKENIZERS
def test_ptb_is_all_sentences_joined_by_a_space_and_cut(
    tmp_path: Path, encode: Callable[[str], list[int]], bos: int | None
) -> None:
    sentences = texts(2, 100, 20)
    text = protocol("ptb", put(tmp_path, "ptb", sentences), "context_length=32", *without_bos(bos))
    assert rows_of(text, Tokenizer(encode, bos)) == joined_then_cut(" ".join(sentences), encode, bos, 32)


def test_the_other_ptb_is_three_overrides_away(tmp_path: Path) -> None:
    sentences = texts(3, 50, 20)
    put(tmp_path, "ptb", sentences)
    folder = tmp_path / "ptb-text-only" / "ptb_text_only" / "penn_treebank"
    (folder / "test").rename(folder / "validation")
    overrides = ["name=ptb_validation", "files=[penn_treebank/validation/0000.parquet]", 'separator="\n\n"']
    text = protocol("ptb", tmp_path, *overrides, "context_length=32")
    assert text.protocol == "ptb_validation@32"
    assert rows_of(text, Tokenizer(encode_bytes, BOS)) == joined_then_cut("\n\n".join(sentences), encode_bytes, BOS, 32)


@TOKENIZERS
def test_c4_joined_is_256_windows_of_1100_documents_joined_by_a_space(
    tmp_path: Path, encode: Callable[[str], list[int]], bos: int | None
) -> None:
    documents = texts(4, 1300, 20)
    put(tmp_path, "c4_joined", documents)
    for context in (16, 24):
        text = protocol("c4_joined", tmp_path, f"context_length={context}", *without_bos(bos))
        cut = joined_then_cut(" ".join(documents[:1100]), encode, bos, context)
        assert len(cut) > 256
        assert rows_of(text, Tokenizer(encode, bos)) == cut[:256]


@TOKENIZERS
def test_c4_joined_of_a_long_context_is_what_the_1100_documents_hold(
    tmp_path: Path, encode: Callable[[str], list[int]], bos: int | None
) -> None:
    documents = texts(5, 1300, 20)
    put(tmp_path, "c4_joined", documents)
    cut = joined_then_cut(" ".join(documents[:1100]), encode, bos, 400)
    assert 10 < len(cut) < 256
    text = protocol("c4_joined", tmp_path, "context_length=400", "n_windows=null", *without_bos(bos))
    assert rows_of(text, Tokenizer(encode, bos)) == cut
    with pytest.raises(RequestError, match=r"but 102400 are needed"):
        rows_of(protocol("c4_joined", tmp_path, "context_length=400", *without_bos(bos)), Tokenizer(encode, bos))


@TOKENIZERS
@pytest.mark.parametrize("context", [12, 40])
def test_c4_windows_draws_256_documents_that_are_long_enough_and_a_start_in_each(
    tmp_path: Path, encode: Callable[[str], list[int]], bos: int | None, context: int
) -> None:
    documents = texts(6, 300, 30)
    lengths = [len(encode(document)) + (bos is not None) for document in documents]
    assert min(lengths) < context < max(lengths), "some are drawn again"
    assert context in lengths, "and some fit exactly"
    text = protocol(
        "c4_windows", put(tmp_path, "c4_windows", documents), f"context_length={context}", *without_bos(bos)
    )
    drawn = rows_of(text, Tokenizer(encode, bos))
    assert len(drawn) == 256
    assert drawn == drawn_in_documents(documents, encode, bos, context, 256)
    if bos is not None:
        first = sum(row[0] == bos for row in drawn)
        assert 0 < first < 256, "a window has the BOS only if it starts its document"


# Worked out by hand.


def test_wikitext2_by_hand(tmp_path: Path) -> None:
    put(tmp_path, "wikitext2", ["", " = A = \n", "", " bc \n"])
    text = protocol("wikitext2", tmp_path, "context_length=6")
    # BOS, two line ends, " = A = \n", four line ends (an empty row between two separators), " bc \n": 1+2+8+4+5.
    assert rows_of(text, Tokenizer(encode_bytes, BOS)) == [
        [256, 10, 10, 32, 61, 32],
        [65, 32, 61, 32, 10, 10],
        [10, 10, 10, 32, 98, 99],
    ]  # The last two, 32 and 10, fill no window.


def test_ptb_by_hand(tmp_path: Path) -> None:
    put(tmp_path, "ptb", ["a <unk>", "N b"])
    text = protocol("ptb", tmp_path, "context_length=4")
    assert rows_of(text, Tokenizer(encode_bytes, BOS)) == [[256, 97, 32, 60], [117, 110, 107, 62], [32, 78, 32, 98]]


def test_c4_joined_by_hand(tmp_path: Path) -> None:
    put(tmp_path, "c4_joined", ["ab", "cd", "ef"])
    text = protocol("c4_joined", tmp_path, "first_documents=2", "n_windows=2", "context_length=2")
    assert rows_of(text, Tokenizer(encode_bytes, BOS)) == [[256, 97], [98, 32]]
    text = protocol("c4_joined", tmp_path, "first_documents=2", "n_windows=null", "context_length=2")
    assert rows_of(text, Tokenizer(encode_bytes, BOS)) == [[256, 97], [98, 32], [99, 100]]


def test_c4_windows_by_hand(tmp_path: Path) -> None:
    put(tmp_path, "c4_windows", ["abcdefgh", "lmnop", "xyz"])
    text = protocol("c4_windows", tmp_path, "n_windows=4", "context_length=5", "bos=none")
    # random.Random(0) draws, one after the other: document 1, an exact fit, so that no start is drawn; document 1
    # again; document 0 and of its starts 0, 1 and 2 (not 3, as in the papers' loaders) start 1; document 2, which is
    # too short; document 1.
    assert ["".join(map(chr, row)) for row in rows_of(text, Tokenizer(encode_bytes, None))] == [
        "lmnop",
        "lmnop",
        "bcdef",
        "lmnop",
    ]


def test_c4_windows_of_documents_that_are_all_too_short_end_in_an_error(tmp_path: Path) -> None:
    text = protocol("c4_windows", put(tmp_path, "c4_windows", ["abc", "de"]), "context_length=5")
    with pytest.raises(RequestError, match="the longest of 2 documents has 4 tokens, but 5 are needed"):
        rows_of(text, Tokenizer(encode_bytes, BOS))


@pytest.mark.parametrize(
    ("name", "llama2", "llama3"),
    [
        ("wikitext2", "wikitext2@4096", "wikitext2@8192"),
        ("ptb", "ptb@4096", "ptb@8192"),
        ("c4_windows", "c4_windows@4096", "c4_windows@8192"),
        ("c4_joined", "c4_joined@2048", "c4_joined@2048"),
    ],
)
def test_the_context_is_the_models_but_for_c4_joined(name: str, llama2: str, llama3: str) -> None:
    for model, expected in (("llama2_7b", llama2), ("llama3_8b", llama3)):
        config = compose([f"model={model}", f"evaluation={name}"])
        assert build(config["evaluation"][name], f"evaluation.{name}", HubPerplexity).protocol == expected


def test_local_copies_serve_calibration_and_evaluation_and_may_be_moved(tmp_path: Path) -> None:
    put(tmp_path / "a", "wikitext2", texts(7, 40, 12))
    train = tmp_path / "a" / "Salesforce/wikitext/wikitext-2-raw-v1/train-00000-of-00001.parquet"
    pd.DataFrame({"text": texts(8, 40, 12)}).to_parquet(train)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    options = ["model=tiny", "calibration=wikitext2", "evaluation=wikitext2"]
    here = build_experiment(compose([*options, f"data_dir={tmp_path / 'a'}"]))
    there = build_experiment(compose([*options, f"data_dir={tmp_path / 'b'}"]))
    assert here.fingerprint == there.fingerprint
    mixed = build_experiment(compose([*options, f"data_dir={tmp_path / 'b'}", f"evaluation.data_dir={tmp_path}"]))
    assert mixed.calibration is not None
    assert len(mixed.calibration.documents()) == 40
    with pytest.raises(RequestError, match=r"evaluation\.wikitext2\.data_dir=.*hf download"):
        mixed.fingerprint  # noqa: B018
