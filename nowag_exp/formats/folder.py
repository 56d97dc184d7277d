"""A compressed model as a folder in Hugging Face layout: written shard by shard, read back and checked.

``config.json`` carries a ``quantization_config`` that lists the layout of every compressed linear and the sha256 of
every shard; the shards hold the packed tensors as ``LINEAR.TENSOR`` and everything else under its usual name. The
manifest of a saved folder lists all of its files. It repeats the hashes of the shards, because from a hub transformers
fetches only what it needs to load a model, and no manifest.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nowag_exp.errors import RequestError, one_line
from nowag_exp.files import naming_full_disk, parse_json, sha256_file
from nowag_exp.formats import FORMATS
from nowag_exp.formats.base import CompressedWeight, FormatError, TensorSpec
from nowag_exp.formats.dense import DenseWeight
from nowag_exp.formats.header import data_bytes, read_header
from nowag_exp.formats.llama import described
from nowag_exp.manifest import DamageError, check_manifest

QUANT_METHOD = "nowag_exp"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
SHARD_BYTES = 2 * 1024**3

AGAIN = "remove the folder and run its experiment again (checkpoint.save=true)"


class FolderWriter:
    """Collects tensors and writes a shard whenever enough have come together, so that memory holds one shard.

    Args:
        folder: empty.
        shard_bytes: of a shard, at least, but for the last one; ``None`` for 2 GiB.
    """

    def __init__(self, folder: Path, shard_bytes: int | None = None) -> None:
        self.folder, self._shard_bytes = folder, shard_bytes or SHARD_BYTES
        self._layouts: dict[str, dict[str, Any]] = {}
        self._pending: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self._n_bytes, self._n_bytes_pending = 0, 0

    def add_weight(self, linear: str, weight: CompressedWeight) -> None:
        """Take the tensors of a compressed linear."""
        if not isinstance(weight, DenseWeight):
            self._layouts[linear] = {"format": weight.kind, **weight.layout()}
        for name, tensor in weight.tensors().items():
            self.add_tensor(f"{linear}.{name}", tensor)

    def add_tensor(self, name: str, tensor: Tensor) -> None:
        """Take any other tensor."""
        self._pending[name] = tensor.detach().cpu().contiguous()
        self._n_bytes += tensor.nbytes
        self._n_bytes_pending += tensor.nbytes
        if self._n_bytes_pending >= self._shard_bytes:
            self._flush()

    def finish(self, config: Mapping[str, Any], beside: Iterable[Path], source: Path | None = None) -> int:
        """Write what is left, the index if there are several shards, ``config.json``, and copies of other files.

        Args:
            config: of the model, without ``quantization_config``.
            beside: files to copy, such as the tokenizer's.
            source: the folder in which, or in whose folders, they are; by default each stands in its own.

        Returns:
            Bytes of all tensors, by the sizes of the files less their headers.

        Raises:
            DiskFullError: if there is no room, as from :meth:`add_tensor`.
        """
        with naming_full_disk(self.folder, self._n_bytes):
            return self._finish(config, beside, source)

    def _finish(self, config: Mapping[str, Any], beside: Iterable[Path], source: Path | None) -> int:
        self._flush()
        shards, n_bytes = {}, 0
        for number, names in enumerate(self._shards, start=1):
            path = self.folder / _shard_name(number, len(self._shards))
            self._temporary(number).rename(path)
            shards[path.name] = names
            n_bytes += data_bytes(path)
        if len(shards) > 1:
            index = {
                "metadata": {"total_size": n_bytes},
                "weight_map": {name: shard for shard, names in shards.items() for name in names},
            }
            _write_json(self.folder / "model.safetensors.index.json", index)
        content = dict(config)
        if self._layouts:
            content["quantization_config"] = {
                "quant_method": QUANT_METHOD,
                "format_version": FORMAT_VERSION,
                "dequantize": False,
                "weights": self._layouts,
                "sha256": {shard: sha256_file(self.folder / shard) for shard in shards},
            }
        _write_json(self.folder / "config.json", content)
        for path in beside:
            copy = self.folder / path.relative_to(source or path.parent)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        return n_bytes

    def _flush(self) -> None:
        if self._pending:
            self._shards.append(list(self._pending))
            with naming_full_disk(self.folder, self._n_bytes):
                save_file(self._pending, self._temporary(len(self._shards)), metadata={"format": "pt"})
            self._pending, self._n_bytes_pending = {}, 0

    def _temporary(self, number: int) -> Path:
        return self.folder / f"shard-{number}"


class PackedFolder:
    """A folder that :class:`FolderWriter` wrote, or that transformers saved again; checked on construction.

    Args:
        files: the shards.
        quantization: the ``quantization_config`` of its ``config.json``.
        model: what the rest of its ``config.json`` describes, on the meta device, with ordinary linears.

    Raises:
        RequestError: naming the file or linear, if a shard is missing, truncated or changed, or if the layouts, the
            tensors in the shards and the model do not fit one another.
    """

    def __init__(self, files: Iterable[Path], quantization: Mapping[str, Any], model: nn.Module) -> None:
        self.files = list(files)
        _check_settings(quantization)
        _check_files(self.files, quantization)
        self._shard_of: dict[str, Path] = {}
        specs: dict[str, TensorSpec] = {}
        for path in self.files:
            found = read_header(path, f"copy it again or {AGAIN}")
            specs |= found
            self._shard_of |= dict.fromkeys(found, path)
        self.layouts = _checked_layouts(quantization)
        self._check_linears(model)
        self._check_tensors(model, specs)
        linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self.dense_linears = sorted(linears - set(self.layouts))
        """Linears that are not compressed; the language-model head is one."""

    @classmethod
    def open(cls, folder: Path) -> "PackedFolder":
        """The folder at a path.

        Raises:
            RequestError: if it is not one of ours, or damaged.
        """
        require_as_written(folder)
        quantization = read_config(folder).get("quantization_config")
        if not isinstance(quantization, dict) or quantization.get("quant_method") != QUANT_METHOD:
            raise RequestError(
                f"{folder}: holds no linears packed by nowag_exp; give a folder that checkpoint.save=true wrote"
            )
        return cls(shards(folder), quantization, skeleton(folder, AGAIN))

    def weight(self, linear: str) -> CompressedWeight:
        """One compressed linear."""
        kind, layout = self.layouts[linear]
        try:
            return FORMATS[kind].restore(layout, {name: self._read(f"{linear}.{name}") for name in self.specs(linear)})
        except FormatError as error:
            raise RequestError(f"{linear}: {error}; {AGAIN}") from error

    def values(self, linear: str, dtype: torch.dtype) -> Tensor:
        """One compressed linear, decompressed, in the type of the model."""
        weight = self.weight(linear)
        try:
            return weight.dense(dtype)
        except FormatError as error:
            raise RequestError(f"{linear}: {error}; {AGAIN}") from error

    def other_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that is not part of a compressed linear."""
        packed = {f"{linear}.{name}" for linear in self.layouts for name in self.specs(linear)}
        for name in self._shard_of:
            if name not in packed:
                yield name, self._read(name)

    def specs(self, linear: str) -> dict[str, TensorSpec]:
        """The tensors that a compressed linear consists of."""
        kind, layout = self.layouts[linear]
        return FORMATS[kind].specs(layout)

    def _read(self, name: str) -> Tensor:
        with safe_open(self._shard_of[name], framework="pt") as file:
            return file.get_tensor(name)

    def _check_linears(self, model: nn.Module) -> None:
        for linear, (_, layout) in self.layouts.items():
            try:
                module = model.get_submodule(linear)
            except AttributeError:
                module = None
            if not isinstance(module, nn.Linear):
                raise RequestError(
                    f"{linear}: quantization_config.weights lists it, but the model that config.json describes has no "
                    f"such linear; restore config.json or {AGAIN}"
                )
            wanted = (module.out_features, module.in_features)
            if (layout["d_out"], layout["d_in"]) != wanted:
                raise RequestError(
                    f"{linear}: its layout is of {layout['d_out']} x {layout['d_in']} weights, the model that "
                    f"config.json describes has {wanted[0]} x {wanted[1]}; restore config.json or {AGAIN}"
                )

    def _check_tensors(self, model: nn.Module, found: Mapping[str, TensorSpec]) -> None:
        """Every tensor of the model is there, packed or not, and nothing else is."""
        for linear in self.layouts:
            for name, spec in self.specs(linear).items():
                if found.get(f"{linear}.{name}") != spec:
                    has = _describe(found.get(f"{linear}.{name}"))
                    raise RequestError(f"{linear}: {name} {has}, config.json asks for {spec}; {AGAIN}")
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        others = {name: shape for name, shape in shapes.items() if name.removesuffix(".weight") not in self.layouts}
        tied = set(getattr(model, "all_tied_weights_keys", ()))
        for name, shape in others.items():
            if name not in found and name in tied:
                continue
            if name not in found or found[name].shape != shape:
                linear, _, _ = name.rpartition(".")
                if name not in found and any(other.startswith(f"{linear}.") for other in found.keys() - shapes.keys()):
                    raise RequestError(
                        f"{linear}: its packed tensors are in the files, but quantization_config.weights in "
                        f"config.json does not list it; restore config.json or {AGAIN}"
                    )
                raise RequestError(
                    f"{name}: {_describe(found.get(name))}, config.json asks for shape {list(shape)}; {AGAIN}"
                )
        packed = {f"{linear}.{name}" for linear in self.layouts for name in self.specs(linear)}
        if strangers := sorted(found.keys() - others.keys() - packed):
            raise RequestError(
                f"{self._shard_of[strangers[0]]}: holds {strangers[0]}, which the model that config.json describes "
                f"has no place for; {AGAIN}"
            )


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder.

    Raises:
        RequestError: if there is none that can be read.
    """
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{folder}: has no readable config.json ({error}); give a folder that checkpoint.save=true wrote"
        ) from error
    if not isinstance(config, dict):
        raise RequestError(f"{folder / 'config.json'}: must hold one JSON object; {AGAIN}")
    return config


def require_as_written(folder: Path) -> None:
    """Hold a saved folder against its manifest; one that transformers saved again has none.

    Raises:
        RequestError: naming the file that is missing or changed; the manifest, if it was lost, is one of them.
    """
    if not (folder / MANIFEST).exists():
        quantization = read_config(folder).get("quantization_config")
        if not isinstance(quantization, dict) or quantization.get("sha256") is None:
            return
        _check_settings(quantization)  # Older versions wrote no manifest.
    try:
        check_manifest(folder / MANIFEST)
    except DamageError as error:
        raise RequestError(f"{error}; copy it again or {AGAIN}") from error


def shards(folder: Path) -> list[Path]:
    """The shards that a folder must have: those of the index, if there is one.

    Raises:
        RequestError: naming the one that is missing.
    """
    names: list[Any] = ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise RequestError(f"{index}: cannot be read ({error!r}); copy it again or {AGAIN}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise RequestError(f"{folder}: names the shard {name!r}, which is outside the folder; do not use it")
        if not (folder / name).is_file():
            raise RequestError(f"{folder / name}: this shard is missing; copy it again or {AGAIN}")
    return [folder / name for name in names]


def skeleton(folder: Path, way_out: str) -> nn.Module:
    """What ``config.json`` of a folder describes, on the meta device, with ordinary linears.

    Raises:
        RequestError: if it describes no model, ``way_out`` says what to do then, or another one than a plain Llama.
    """
    try:
        return described(folder)
    except Exception as error:
        if isinstance(error, RequestError):  # From our own settings in quantization_config.
            raise
        raise RequestError(f"{folder}: config.json does not describe a model ({one_line(error)}); {way_out}") from error


def _check_settings(quantization: Mapping[str, Any]) -> None:
    version = quantization.get("format_version")
    if version != FORMAT_VERSION:
        raise RequestError(
            f"config.json: quantization_config.format_version is {version!r}, this program reads {FORMAT_VERSION}; "
            "use the version of nowag_exp that wrote the folder"
        )
    if not isinstance(quantization.get("dequantize", False), bool):
        raise RequestError(
            f"config.json: quantization_config.dequantize must be true or false; got {quantization['dequantize']!r}"
        )


def _check_files(files: Iterable[Path], quantization: Mapping[str, Any]) -> None:
    """Hold the shards against their hashes, if there are any: transformers writes none when it saves a model again."""
    hashes = quantization.get("sha256")
    if hashes is None:
        return
    if not isinstance(hashes, dict):
        raise RequestError(f"config.json: quantization_config.sha256 must map shards to hashes; got {hashes!r}")
    found = {path.name: path for path in files}
    for name in sorted(set(hashes) | set(found)):
        if name not in found:
            raise RequestError(f"{name}: this shard is missing; copy it again or {AGAIN}")
        if sha256_file(found[name]) != hashes.get(name):
            raise RequestError(
                f"{found[name]}: is not the file that was written (its sha256 is another); copy it again or {AGAIN}"
            )


def _describe(spec: TensorSpec | None) -> str:
    return "is missing" if spec is None else f"is {spec}"


def _checked_layouts(quantization: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    weights = quantization.get("weights")
    if not isinstance(weights, dict) or not weights:
        raise RequestError(f"config.json: quantization_config.weights lists no linears; {AGAIN}")
    layouts = {}
    for linear, entry in weights.items():
        layout = dict(entry) if isinstance(entry, dict) else {}
        kind = layout.pop("format", None)
        if not isinstance(kind, str) or kind not in FORMATS:
            raise RequestError(f"{linear}: format {kind!r} is unknown; there are: {', '.join(FORMATS)}")
        try:
            FORMATS[kind].check(layout)
        except FormatError as error:
            raise RequestError(f"{linear}: {error}; {AGAIN}") from error
        layouts[linear] = (kind, layout)
    return layouts


def _shard_name(number: int, total: int) -> str:
    return "model.safetensors" if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    # The layout of a linear on one line: a hundred of them are to be read by people, too.
    text = re.sub(r"\{\n\s+(\"format\": [^{}]*?)\n\s+\}", lambda m: "{" + re.sub(r"\n\s+", " ", m[1]) + "}", text)
    path.write_text(text + "\n", encoding="utf-8")
