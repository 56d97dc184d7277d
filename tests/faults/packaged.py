"""A model and a text as PyPI has them, in wheels, but small enough to be downloaded and converted in a second."""

import bz2
import hashlib
import json
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import gguf
import numpy as np

from nowag_exp.text.wiki_sample import clean_articles

WIDTH, MLP_WIDTH, N_BLOCKS, N_HEADS = 32, 64, 2, 4

NOUNS = ("river", "house", "garden", "letter", "window", "machine", "station", "teacher", "mountain", "village")
VERBS = ("carries", "follows", "measures", "repairs", "describes", "answers")
KINDS = ("small", "green", "quiet", "heavy", "broken", "northern", "wooden")


TEXTS = ("calibration", "evaluation.wiki_sample", "evaluation.wiki_zero_shot")
"""Parts of the experiment that read the packaged articles."""


def command_on_wheels(index: Path) -> list[str]:
    """Write the wheels into a folder; returns the command that runs an experiment on what is in them."""
    index.mkdir(parents=True)
    model = in_wheel(index, "tiny_gguf", "tiny.gguf", gguf_bytes(index / "tiny.gguf"))
    dump = index / "dump.xml.bz2"
    dump.write_bytes(bz2.compress(dump_of(6).encode()))
    text = in_wheel(index, "tiny_wiki", "dump.xml.bz2", dump.read_bytes())
    cleaned = "".join(
        json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n" for title, text in clean_articles(dump)
    )
    text["cleaned_sha256"] = hashlib.sha256(cleaned.encode()).hexdigest()
    return [
        "run",
        "model=smollm2_135m",
        "model.context_length=64",
        *(f"model.{key}={value}" for key, value in model.items()),
        "evaluation=[wiki_sample,wiki_zero_shot]",
        *(f"{where}.{key}={value}" for where in TEXTS for key, value in text.items()),
        "calibration.n_sequences=2",
        "evaluation.wiki_sample.n_windows=2",
        "evaluation.wiki_zero_shot.tasks=[wiki_word_order]",
        "evaluation.wiki_zero_shot.limit=3",
        "runtime.threads=1",
    ]


def in_wheel(index: Path, package: str, name: str, content: bytes) -> dict[str, Any]:
    """Write a wheel that holds one file; returns the settings that lead to it."""
    information, member = f"{package}-1.0.dist-info", f"{package}/{name}"
    path = index / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return {
        "wheel.requirement": f'"{package}==1.0"',
        "wheel.tags": [],
        "wheel.wheel_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "wheel.member": member,
        "wheel.sha256": hashlib.sha256(content).hexdigest(),
    }


def gguf_bytes(path: Path) -> bytes:
    """A Llama of random weights on the grids of Q4_1, as the packaged model is, with a token a byte."""
    writer = gguf.GGUFWriter(path, "llama")
    tokens = [*sorted(_byte_letters()), "th", "<|im_start|>", "<|im_end|>"]
    writer.add_block_count(N_BLOCKS)
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP_WIDTH)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS // 2)
    writer.add_rope_dimension_count(WIDTH // N_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)

    draw = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), WIDTH)}
    for block in range(N_BLOCKS):
        shapes |= {f"blk.{block}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "output")}
        shapes |= {f"blk.{block}.attn_{part}": (WIDTH // 2, WIDTH) for part in ("k", "v")}
        shapes |= {f"blk.{block}.ffn_{part}": (MLP_WIDTH, WIDTH) for part in ("gate", "up")}
        shapes |= {f"blk.{block}.ffn_down": (WIDTH, MLP_WIDTH)}
    grid = gguf.GGMLQuantizationType.Q4_1
    for name, shape in shapes.items():
        weight = gguf.quants.quantize(draw.normal(0, 0.05, shape).astype(np.float32), grid)
        writer.add_tensor(f"{name}.weight", weight, raw_dtype=grid)
    norms = ["output_norm", *(f"blk.{block}.{norm}_norm" for block in range(N_BLOCKS) for norm in ("attn", "ffn"))]
    for norm in norms:
        writer.add_tensor(f"{norm}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def dump_of(n_articles: int) -> str:
    """A MediaWiki export, of sentences that questions can be made of."""
    draw = Random(0)

    def sentence() -> str:
        first, second = draw.sample(NOUNS, 2)
        return (
            f"The {draw.choice(KINDS)} {first} of the {second} {draw.choice(VERBS)} each {draw.choice(KINDS)} {first}."
        )

    def page(number: int) -> str:
        text = "\n\n".join(" ".join(sentence() for _ in range(4)) for _ in range(3))
        return f"<page><title>{number}</title><revision><text>{text}</text></revision></page>"

    pages = "".join(map(page, range(n_articles)))
    return f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{pages}</mediawiki>'


def _byte_letters() -> list[str]:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel.alphabet()
