"""A model that ships as a GGUF file inside a PyPI wheel; converted once to an ordinary checkpoint."""

import io
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nowag_exp.errors import RequestError
from nowag_exp.files import as_name, cache_dir
from nowag_exp.models.converted import converted
from nowag_exp.models.sources import ModelSource
from nowag_exp.progress import note
from nowag_exp.quiet import quiet_libraries
from nowag_exp.settings import settings
from nowag_exp.wheels import WheelMember

VERSION = 1
"""Raised when the same GGUF file would give another checkpoint."""


@settings
class PackagedModel(ModelSource):
    """A GGUF file in a wheel.

    Attributes:
        name: in tables.
        wheel: where the GGUF file is.
    """

    name: str
    wheel: WheelMember

    @property
    def label(self) -> str:
        return self.name

    def folder(self) -> Path:
        """The converted checkpoint: plain dense float32 weights and the tokenizer; made once, about half a minute.

        Its files are compared with their hashes of that time; a damaged checkpoint is made again.
        """
        return converted(
            cache_dir() / "models" / f"{as_name(self.name)}-{self.wheel.sha256[:16]}-v{VERSION}", self._convert
        )

    def weights_identity(self) -> dict[str, Any]:
        return {"gguf_sha256": self.wheel.sha256, "conversion": VERSION}

    def _convert(self, folder: Path) -> dict[str, Any]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        gguf = folder / Path(self.wheel.member).name
        self.wheel.unpack(gguf)
        note(f"converting {gguf.name} to a plain checkpoint (once)")
        # The GGUF reader draws a bar of its own that no setting of transformers turns off.
        with quiet_libraries(), redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=gguf.name,
                dtype=torch.float32,
                # Without this the model stays marked as quantized and cannot be saved as plain weights.
                quantization_config=GgufConfig(dequantize=True),
            )
            model.save_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
            tokenizer.backend_tokenizer.pre_tokenizer = _pre_tokenizer(gguf)
            tokenizer.save_pretrained(folder)
        gguf.unlink()
        return {**asdict(self.wheel), "conversion": VERSION}


def _pre_tokenizer(gguf: Path) -> Any:
    """How text is split before it is encoded: GGUF only names it, and transformers' converter takes GPT-2's for any.

    Raises:
        RequestError: if it is not SmolLM's, the only one known here.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    name = GGUFReader(gguf).fields["tokenizer.ggml.pre"].contents()
    if name != "smollm":
        raise RequestError(f"{gguf.name}: has pre-tokenizer {name}, which this version cannot convert")
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
