"""A model's tokenizer, without its habit of adding special tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nowag_exp.errors import RequestError, one_line
from nowag_exp.files import read_json_object
from nowag_exp.quiet import quiet_libraries

JSON_PATTERNS = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")

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
    for path in sorted(path for pattern in JSON_PATTERNS for path in folder.glob(pattern)):
        read_json_object(path)
    try:
        with quiet_libraries():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers checks nothing: what a damaged file raises depends on the damage.
        raise RequestError(
            f"{folder}: its tokenizer cannot be loaded ({one_line(error)}); download the model again"
        ) from error
