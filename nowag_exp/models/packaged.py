"""A model that ships as a GGUF file inside a PyPI wheel; converted once to an ordinary checkpoint."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nowag_exp.files import as_name, cache_dir
from nowag_exp.models.converted import converted
from nowag_exp.models.sources import ModelSource
from nowag_exp.progress import note
from nowag_exp.quiet import quiet_libraries
from nowag_exp.settings import settings
from nowag_exp.wheels import WheelMember

VERSION = 1
"""Raised when the same GGUF file would give another checkpoint."""

GGUF = "packaged.gguf"
"""Its name while it is converted, whatever it is called in the wheel."""


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
        from nowag_exp.models.gguf_file import read_gguf  # Takes a while to import, for what is done once.

        gguf = folder / GGUF
        self.wheel.unpack(gguf)
        note(f"converting {self.wheel.member} to a plain checkpoint (once)")
        model, tokenizer = read_gguf(gguf, f"{self.wheel.member} in {self.wheel.requirement}")
        with quiet_libraries():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        gguf.unlink()
        return {**asdict(self.wheel), "conversion": VERSION}
