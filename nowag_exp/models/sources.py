"""Where a model comes from: the hub or a folder of the user. Both end as a folder in Hugging Face layout."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from nowag_exp.errors import RequestError
from nowag_exp.formats.llama import require_llama
from nowag_exp.hub import cached_folder, hub_folder, resolve_commit
from nowag_exp.models.architecture import Architecture
from nowag_exp.models.blocks import CausalLM
from nowag_exp.models.checkpoint import ALL_PATTERNS, Checkpoint
from nowag_exp.settings import PathText, settings

Dtype = Literal["float32", "bfloat16", "float16"]


@settings
class ModelSource(ABC):
    """A model to compress.

    Attributes:
        context_length: tokens of a calibration sequence and an evaluation window unless their own setting says
            otherwise. Papers use the native context for Llama-2 (4096) and 8192 for Llama-3; never taken from the
            checkpoint, where newer models say 131072.
        dtype: of the weights and activations.
        group_size: columns that share a grid in methods that round in groups, unless their own setting says otherwise;
            must divide the widths of the model.
    """

    context_length: int
    dtype: Dtype
    group_size: int

    @property
    @abstractmethod
    def label(self) -> str:
        """Name in tables."""

    @abstractmethod
    def folder(self) -> Path:
        """Folder in Hugging Face layout; downloads or converts if need be."""

    @abstractmethod
    def weights_identity(self) -> dict[str, Any]:
        """What fixes the weights and tokenizer: hashes, or a repository with its commit."""

    def identity(self) -> dict[str, Any]:
        """What fixes the model: weights and dtype."""
        return {"class": type(self).__qualname__, "dtype": self.dtype, **self.weights_identity()}

    def sizes(self) -> Architecture:
        """Its sizes; of a model on the hub known without it.

        Raises:
            RequestError: if its checkpoint is not whole, not of a plain Llama, or quantized already.
        """
        checkpoint = Checkpoint(self.folder())
        _require_original(checkpoint, self.label)
        return Architecture.of(checkpoint.config)

    def is_here(self) -> bool:
        """Whether it can be had without the Hugging Face hub."""
        return True

    def check(self) -> dict[str, Any]:
        """Get the checkpoint and check all of it that can be checked without reading weights, or hardly any.

        Returns:
            Its ``config.json``.

        Raises:
            RequestError: if it is not whole, not of a plain Llama, quantized already, or too short for
                ``context_length``.
        """
        checkpoint = Checkpoint(self.folder())
        _require_original(checkpoint, self.label)
        checkpoint.check_tensors()
        longest = checkpoint.config.get("max_position_embeddings")
        if longest is not None and self.context_length > longest:
            raise RequestError(
                f"model.context_length={self.context_length}: {self.label} has {longest} positions; set at most that"
            )
        return checkpoint.config

    def load(self, device: torch.device, streamed: bool = False, gpus: Mapping[int, int] | None = None) -> CausalLM:
        """Load the weights onto ``device`` or spread them over GPUs, or make ready to read them a block at a time."""
        checkpoint, dtype = Checkpoint(self.folder()), getattr(torch, self.dtype)
        if streamed:
            return CausalLM.streamed(checkpoint, dtype, device)
        return CausalLM.load(checkpoint, dtype, device, gpus)


@settings
class HubModel(ModelSource):
    """A model on the Hugging Face hub.

    Attributes:
        name: in tables.
        repo: model id.
        revision: commit, tag or branch; a branch is resolved to its commit.
        architecture: what its ``config.json`` says, so that a plan needs no download; held against it before any work.
    """

    name: str
    repo: str
    revision: str
    architecture: Architecture

    @property
    def label(self) -> str:
        return self.name

    @property
    def commit(self) -> str:
        """What ``revision`` names."""
        return resolve_commit(self.repo, self.revision, "model")

    def folder(self) -> Path:
        return hub_folder(self.repo, self.commit, ALL_PATTERNS)

    def sizes(self) -> Architecture:
        return self.architecture

    def is_here(self) -> bool:
        """Whether all of it is in the hub's cache on this machine."""
        try:
            folder = cached_folder(self.repo, self.commit)
            return folder is not None and bool(Checkpoint(folder).weight_files)
        except RequestError:
            return False

    def check(self) -> dict[str, Any]:
        """As for any model; and hold :attr:`architecture` against ``config.json``."""
        config = super().check()
        found = Architecture.of(config)
        for name, value in vars(found).items():
            expected = getattr(self.architecture, name)
            if value != expected:
                raise RequestError(
                    f"model.architecture.{name}: is {expected}, but config.json of {self.repo} says {value}; set what "
                    "it says, or the repository and revision that were meant"
                )
        return config

    def weights_identity(self) -> dict[str, Any]:
        return {"repo": self.repo, "commit": self.commit}


@settings
class LocalModel(ModelSource):
    """A folder in Hugging Face layout.

    Attributes:
        path: of the folder, relative to the working directory.
    """

    path: PathText

    @property
    def label(self) -> str:
        return self.folder().resolve().name

    def folder(self) -> Path:
        return Path(self.path).expanduser()

    def weights_identity(self) -> dict[str, Any]:
        return {"files": Checkpoint(self.folder()).identity()}


def _require_original(checkpoint: Checkpoint, label: str) -> None:
    """Check that a checkpoint is of a plain Llama that nobody has compressed yet."""
    require_llama(checkpoint.config, checkpoint.folder / "config.json")
    if checkpoint.config.get("quantization_config") is not None:
        raise RequestError(
            f"model {label}: is quantized already; give its original checkpoint "
            "(nowag-exp export FOLDER --to dense makes an ordinary one of a folder that checkpoint.save=true wrote)"
        )
