"""The files that make a folder of weights a model to talk to: one list, for what is hashed, saved, exported, fetched.

Patterns of :meth:`pathlib.Path.glob`, that a test holds against the names that transformers itself reads and writes.
"""

from fnmatch import fnmatch
from pathlib import Path

from nowag_exp.files import sha256_file

TOKENIZER_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "*.model",
)
"""All that transformers reads token ids from, whatever the class of the tokenizer: a number depends on them."""

OTHER_PATTERNS = (
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "chat_templates/*.jinja",
    "chat_template.json",
    "generation_config.json",
    "processor_config.json",
    "*preprocessor_config.json",
    "audio_tokenizer_config.json",
)
"""Chat templates, how to generate, and processors. No number depends on them: no protocol applies a template, and none
generates."""


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder's tokenizer; as for transformers, what is no regular file is none."""
    return _files(folder, TOKENIZER_PATTERNS)


def files_beside_weights(folder: Path) -> list[Path]:
    """The files of a folder's tokenizer, chat templates and generation settings."""
    return _files(folder, (*TOKENIZER_PATTERNS, *OTHER_PATTERNS))


def are_alike(folder: Path, saved: Path) -> bool:
    """Whether another folder has each of these files of a folder, with the same content."""
    pairs = ((path, saved / path.relative_to(folder)) for path in files_beside_weights(folder))
    return all(copy.is_file() and sha256_file(copy) == sha256_file(path) for path, copy in pairs)


def changes_numbers(name: str) -> bool:
    """Whether a number may depend on a file of a model, by its path in the model's folder."""
    tokenizer, other = (
        any(fnmatch(name, pattern) for pattern in patterns) for patterns in (TOKENIZER_PATTERNS, OTHER_PATTERNS)
    )
    return tokenizer or not other


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
