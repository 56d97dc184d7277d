"""A folder in Hugging Face layout: is it whole, what is its architecture, what are its tensors."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nowag_exp.errors import RequestError
from nowag_exp.files import read_json_object, sha256_file
from nowag_exp.formats.base import TensorSpec
from nowag_exp.formats.beside import OTHER_PATTERNS, TOKENIZER_PATTERNS, files_beside_weights, tokenizer_files
from nowag_exp.formats.folder import MANIFEST, skeleton
from nowag_exp.formats.header import read_header
from nowag_exp.manifest import DamageError, check_manifest

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FLOATING = {torch.float32, torch.float16, torch.bfloat16, "F64"}
"""As :class:`TensorSpec` has it: what may be cast to the precision to compute in. Others have scales beside them."""

ALL_PATTERNS = ("config.json", *WEIGHT_PATTERNS, *TOKENIZER_PATTERNS, *OTHER_PATTERNS)


class Checkpoint:
    """Safetensors weights, configuration and tokenizer in one folder.

    Raises:
        RequestError: on construction, naming the folder or file, if it is not a whole checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise RequestError(
                f"{folder}: no such folder; give one in Hugging Face layout (config.json, *.safetensors)"
            )
        if not (folder / "config.json").is_file():
            raise RequestError(f"{folder}: has no config.json; give a folder in Hugging Face layout")
        self.config = read_json_object(folder / "config.json")
        missing = ", ".join(path.name for path in self.weight_files if not path.is_file())
        if missing:
            names = missing if self._index else f"{WHOLE} (or {INDEX} with its shards)"
            raise RequestError(f"{folder}: is no whole checkpoint, {names} is missing; download the folder again")
        self._check_unambiguous()
        if not any(path.name.startswith("tokenizer") for path in tokenizer_files(folder)):
            raise RequestError(f"{folder}: has no tokenizer (tokenizer.json or tokenizer.model); add the model's files")

    @cached_property
    def _index(self) -> dict[str, str] | None:
        index = self.folder / INDEX
        if not index.is_file():
            return None
        shards = read_json_object(index).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise RequestError(f"{index}: has no weight_map from tensors to shards; download the model again")
        return shards

    @cached_property
    def weight_files(self) -> list[Path]:
        """The shards that the index names if there is one, or ``model.safetensors``, as transformers saves them."""
        if self._index is None:
            return [self.folder / WHOLE]
        names = sorted(set(self._index.values()))
        strays = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
        if strays:
            raise RequestError(
                f"{self.folder}: the index names {strays[0]!r}, which is no shard in this folder; do not use it"
            )
        return [self.folder / name for name in names]

    def _check_unambiguous(self) -> None:
        """Refuse a folder of which transformers, and whatever else rests on it, would load weights that we do not."""
        if self.config.get("transformers_weights") is not None:
            raise RequestError(
                f"{self.folder / 'config.json'}: transformers_weights names a file to take the weights from; remove "
                f"the key, and call that file {WHOLE}"
            )
        if self.weight_files != [self.folder / WHOLE] and (self.folder / WHOLE).is_file():
            raise RequestError(
                f"{self.folder}: has {WHOLE} beside {INDEX}, which names other shards; remove the one that does not "
                "belong to the model, or download the model again"
            )

    @cached_property
    def _shard_of(self) -> dict[str, Path]:
        if self._index is not None:
            return {tensor: self.folder / shard for tensor, shard in self._index.items()}
        (path,) = self.weight_files
        with _open(path) as file:
            return dict.fromkeys(file.keys(), path)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Read tensors by name, one at a time, each shard opened once; the rest of the shard stays on disk.

        Raises:
            RequestError: naming the tensor or shard that is missing or broken.
        """
        by_shard: dict[Path, list[str]] = {}
        for name in names:
            by_shard.setdefault(self._shard(name), []).append(name)
        for path, wanted in by_shard.items():
            with _open(path) as file:
                for name in wanted:
                    yield name, file.get_tensor(name)

    def mapped(self, name: str) -> Tensor:
        """A tensor that is read where it is used: it stays mapped to its shard, and must not be written to.

        Raises:
            RequestError: as :meth:`read`.
        """
        with _open(self._shard(name)) as file:
            return file.get_tensor(name)

    @contextmanager
    def slices(self) -> Iterator[dict[str, Any]]:
        """Every tensor of the shards by name, each read when ``[...]`` is taken of it, while the context is open.

        Raises:
            RequestError: naming the shard that is broken.
        """
        with ExitStack() as stack:
            files = [stack.enter_context(_open(path)) for path in self.weight_files]
            yield {name: file.get_slice(name) for file in files for name in file.keys()}  # noqa: SIM118

    def _shard(self, name: str) -> Path:
        if name not in self._shard_of:
            raise RequestError(f"{self.folder}: has no tensor {name}; the checkpoint does not match its config.json")
        return self._shard_of[name]

    def specs(self) -> dict[str, TensorSpec]:
        """Type and shape of every tensor, from the headers of the shards alone.

        Raises:
            RequestError: if a shard is broken, or holds a tensor that belongs into another one.
        """
        specs: dict[str, TensorSpec] = {}
        for path in self.weight_files:
            for name, spec in read_header(path, "download it again").items():
                place = self._shard_of.get(name, path)
                if place != path:
                    raise RequestError(
                        f"{path}: holds {name}, which is in {place.name} as well, or should be by the index; remove "
                        "the shard that does not belong to the model, or download the model again"
                    )
                specs[name] = spec
        return specs

    def check_tensors(self) -> None:
        """Compare every tensor with what ``config.json`` describes; none is read, but for a head that should be tied.

        Raises:
            RequestError: naming the first tensor that is missing, of another shape, not of floating-point numbers, or
                of no use to the model.
        """
        found, described = self.specs(), skeleton(self.folder, "download it again")
        for name, parameter in described.named_parameters():  # A tied lm_head is not among them.
            if name not in found or found[name].shape != tuple(parameter.shape):
                has = f"has shape {found[name].shape}" if name in found else "is missing"
                raise RequestError(
                    f"{self.folder}: {name} {has}, config.json asks for {tuple(parameter.shape)}; "
                    "download the model again"
                )
        places = described.state_dict().keys()
        for name, spec in found.items():
            # Files of old have these angles in each block; nobody reads them any more.
            if name not in places and not name.endswith(".rotary_emb.inv_freq"):
                raise RequestError(
                    f"{self.folder}: holds {name[:200]!r}, for which the model that config.json describes has no "
                    "place; download the model again"
                )
            if name in places and spec.dtype not in FLOATING:
                raise RequestError(
                    f"{self.folder}: {name} is {spec}, but weights must be F32, F16, BF16 or F64; give the model's "
                    "original checkpoint"
                )
        if HEAD in found and described.get_parameter(HEAD) is described.get_parameter(EMBEDDING):
            self._check_tied(found)

    def _check_tied(self, found: Mapping[str, TensorSpec]) -> None:
        head, embedding = (self.mapped(name).view(torch.uint8) for name in (HEAD, EMBEDDING))
        if found[HEAD] != found[EMBEDDING] or not torch.equal(head, embedding):
            raise RequestError(
                f"{self.folder}: {HEAD} differs from {EMBEDDING}, but config.json says tie_word_embeddings=true; "
                "set it to false if the head is the model's own, or download the model again"
            )

    def files_beside_weights(self) -> list[Path]:
        """Tokenizer, chat templates and generation settings."""
        return files_beside_weights(self.folder)

    def identity(self) -> dict[str, str]:
        """sha256 of every file that a number depends on: configuration, weights, tokenizer."""
        return self._hashes(tokenizer_files(self.folder))

    def hashes(self) -> dict[str, str]:
        """sha256 of every file that goes into what is saved: those of :meth:`identity`, templates and settings."""
        return self._hashes(self.files_beside_weights())

    def _hashes(self, beside: list[Path]) -> dict[str, str]:
        files = {self.folder / "config.json", *self.weight_files, *beside}
        return {path.relative_to(self.folder).as_posix(): sha256_file(path) for path in sorted(files)}

    @cached_property
    def _first_hashes(self) -> dict[str, str]:
        return self.hashes()

    def require_unchanged(self) -> None:
        """Check that every file is what it was when this was called first.

        Raises:
            RequestError: naming one that is not.
        """
        first = self._first_hashes
        try:
            found = self.hashes()
        except FileNotFoundError as error:
            lost = Path(error.filename).relative_to(self.folder).as_posix()
            found = {name: digest for name, digest in first.items() if name != lost}
        if changed := sorted(name for name, _ in first.items() ^ found.items()):
            raise RequestError(
                f"{self.folder / changed[0]}: changed while the model was in use; run the same command again"
            )


def damage(folder: Path) -> str | None:
    """What a saved checkpoint lost, or what of it was changed; ``None`` if it is whole.

    Weights, which may take minutes to read, are held against the length that their headers say; what is in them is
    looked at when they are loaded.
    """
    try:
        listed = check_manifest(folder / MANIFEST, unread=(".safetensors",))
    except DamageError as error:
        return str(error)
    for path in (path for path in listed if path.suffix == ".safetensors"):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path}: is not a whole safetensors file ({error})"
    return None


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{path}: is not a whole safetensors file ({error}); download it again") from error
