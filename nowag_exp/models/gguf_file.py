"""A GGUF file, whoever wrote it: what it says of itself is held against its size before anything is made of it."""

import io
import math
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

from nowag_exp.errors import RequestError, one_line
from nowag_exp.formats.llama import described
from nowag_exp.quiet import quiet_libraries

MOST_PIECES = 1_000_000
"""Numbers and texts of a header, which take 640 bytes each; SmolLM2's has 250,000."""


class _HeldReader(GGUFReader):
    """The library's reader goes on behind the end of a file, for as long as a count in it says."""

    def __init__(self, path: Path) -> None:
        self._pieces = 0
        super().__init__(path)

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        self._pieces += 1
        if self._pieces > MOST_PIECES:
            raise ValueError(f"its header holds more than {MOST_PIECES:,} numbers and texts")
        if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError(f"it ends before what it describes at byte {offset}")
        return super()._get(offset, dtype, count, override_order)


def read_gguf(path: Path, what: str) -> tuple[Any, Any]:
    """Model in float32, and tokenizer, both transformers' own.

    Memory is taken for the file's header, at most 640 MB at a time, and for its weights in float32.

    Args:
        path: of the file, alone in its folder.
        what: messages call it.

    Raises:
        RequestError: if it is cut, contradicts itself, describes another model than it holds, or splits texts in a way
            that is not known here.
    """
    try:
        with quiet_libraries(), np.errstate(over="raise"):
            pre_tokenizer = _checked(path)
            # The GGUF reader draws a bar of its own that no setting of transformers turns off.
            with redirect_stderr(io.StringIO()):
                model, report = AutoModelForCausalLM.from_pretrained(
                    path.parent,
                    gguf_file=path.name,
                    dtype=torch.float32,
                    # Without this the model stays marked as quantized and cannot be saved as plain weights.
                    quantization_config=GgufConfig(dequantize=True),
                    output_loading_info=True,
                )
                tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        if wrong := [name for kind in ("missing_keys", "mismatched_keys") for name in report[kind]]:
            raise ValueError(f"it has no weights for {wrong[0]}")
    except Exception as error:  # The libraries check little: what a damaged file raises depends on the damage.
        raise RequestError(
            f"{what}: is no GGUF file that can be converted ({one_line(error)}); name another one, or the pinned one"
        ) from error
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer
    return model, tokenizer


def _checked(path: Path) -> Any:
    """How the file says that texts are split, once the rest of what it says was held against its size."""
    reader = _HeldReader(path)
    if sum(tensor.n_bytes for tensor in reader.tensors) > path.stat().st_size:
        raise ValueError("its tensors share bytes")
    # Of the exact sizes: the library multiplies them modulo 2^64.
    n_weights = sum(math.prod(map(int, tensor.shape)) for tensor in reader.tensors)
    pre_tokenizer = _pre_tokenizer(reader)
    _require_read(reader)
    n_described = sum(weight.numel() for weight in described(path.parent, gguf_file=path.name).parameters())
    if n_described != n_weights:
        raise ValueError(f"it describes a model of {n_described} weights, and holds {n_weights}")
    return pre_tokenizer


def _require_read(reader: GGUFReader) -> None:
    """Refuse sizes and factors of the model that transformers' converter passes over, such as a sliding window."""
    kind = reader.fields["general.architecture"].contents()
    read = {f"{kind}.{name}" for name in GGUF_CONFIG_MAPPING.get(kind, {})}
    if strange := sorted(name for name in reader.fields.keys() - read if name.startswith(f"{kind}.")):
        value = reader.fields[strange[0]].contents()
        raise ValueError(f"transformers does not read its {strange[0]}={value!r}, so the model would be another")


def _pre_tokenizer(reader: GGUFReader) -> Any:
    """How text is split before it is encoded: GGUF only names it, and transformers' converter takes GPT-2's for any."""
    name = reader.fields["tokenizer.ggml.pre"].contents()
    if name != "smollm":
        raise ValueError(f"its pre-tokenizer is {name!r}; smollm alone is known here")
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
