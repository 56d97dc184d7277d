"""A model's tokenizer, without its habit of adding special tokens."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nowag_exp.errors import RequestError, one_line
from nowag_exp.files import read_json_object
from nowag_exp.formats.beside import tokenizer_files
from nowag_exp.quiet import quiet_libraries

SENTENCEPIECE = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
TIKTOKEN = {"tiktoken": "tiktoken"}
"""Packages, by the names that pip knows, and the modules in them, that read a ``*.model`` where there is no
``tokenizer.json``."""

Encode = Callable[[str], list[int]]
"""Text to token ids, without special tokens."""


@dataclass(frozen=True)
class Tokenizer:
    """What drawing windows needs of a tokenizer.

    Attributes:
        encode: text to token ids; special tokens are the protocol's business, so none are added.
        bos: id of the BOS token; ``None`` if there is none.
    """

    encode: Encode
    bos: int | None

    def held(self, vocabulary: int, label: str) -> "Tokenizer":
        """The same, but it refuses texts of which a token has no embedding.

        Args:
            vocabulary: tokens that have one.
            label: of the model, for messages.
        """

        def encode(text: str) -> list[int]:
            ids = self.encode(text)
            require_known(max(ids, default=0), vocabulary, label)
            return ids

        return Tokenizer(encode, self.bos)


def require_known(highest: int, vocabulary: int, label: str) -> None:
    """Check that token ids have an embedding, before a GPU would fail on one without saying which.

    Args:
        highest: of the ids.
        vocabulary: tokens that have one.
        label: of the model, for messages.

    Raises:
        RequestError: if they do not.
    """
    if highest >= vocabulary:
        raise RequestError(
            f"model {label}: its tokenizer gives token {highest}, but config.json has vocab_size {vocabulary}; the "
            "tokenizer is another model's"
        )


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load from a folder in Hugging Face layout; no code from the folder is run.

    Raises:
        RequestError: if the folder has no usable tokenizer.
    """
    tokenizer = load_transformers_tokenizer(folder)
    return Tokenizer(
        encode=lambda text: tokenizer(text, add_special_tokens=False, verbose=False).input_ids,
        bos=tokenizer.bos_token_id,
    )


def load_transformers_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder as transformers' own object, which lm-eval asks for.

    Raises:
        RequestError: if the folder has no usable tokenizer.
    """
    from transformers import AutoTokenizer

    # transformers takes the last of two equal keys, and does not say which file it cannot read.
    for path in tokenizer_files(folder):
        if path.suffix == ".json":
            read_json_object(path)
    try:
        with quiet_libraries():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers checks nothing: what a damaged file raises depends on the damage.
        way_out = _packages(folder) or "download the model again"
        raise RequestError(f"{folder}: its tokenizer cannot be loaded ({one_line(error)}); {way_out}") from error


def _packages(folder: Path) -> str:
    """Which packages that are not installed transformers needs for the files of a tokenizer, and what else would do.

    Told from the files: without its first choice transformers takes a file for one of another kind, and says that.
    """
    if (folder / "tokenizer.json").is_file():
        return ""  # Needs none.
    for path in tokenizer_files(folder):
        if path.suffix == ".model":
            needs = TIKTOKEN if _is_tiktoken(path) else SENTENCEPIECE
            if missing := " ".join(name for name, module in needs.items() if not _is_installed(module)):
                return (
                    f"{path.name} alone is read with the help of packages that are not installed: run pip install "
                    f"{missing}, or put the model's tokenizer.json beside it"
                )
    return ""


def _is_tiktoken(path: Path) -> bool:
    """Whether a file has lines of a token in base64 and its rank; SentencePiece's is binary from its first byte on."""
    with path.open("rb") as file:
        return re.fullmatch(rb"[A-Za-z0-9+/]+=* \d+\s*", file.readline(1000)) is not None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # Nor is the package that it is a part of.
        return False
