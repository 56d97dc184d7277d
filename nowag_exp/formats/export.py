"""Packed folders as checkpoints that other tools read, verified by loading the result with transformers alone."""

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nowag_exp.errors import NowagError, RequestError
from nowag_exp.files import atomic_folder, locked
from nowag_exp.formats.base import DTYPES
from nowag_exp.formats.beside import files_beside_weights
from nowag_exp.formats.folder import MANIFEST, FolderWriter, PackedFolder, read_config
from nowag_exp.formats.integer import IntegerWeight
from nowag_exp.quiet import quiet_libraries

Target = Literal["dense", "compressed-tensors"]
LIBRARY = "compressed_tensors"


@dataclass(frozen=True)
class Exported:
    """A checkpoint that was written and verified.

    Attributes:
        folder: it.
        dtype: of the model.
        n_bytes: of its tensors.
        n_linears: how many were packed in the folder it was made from, and compared bit for bit.
        why_dequantize: why it gives these bits only with ``CompressedTensorsConfig(dequantize=True)``; empty if it does
            without.
    """

    folder: Path
    dtype: str
    n_bytes: int
    n_linears: int
    why_dequantize: str

    @property
    def loading(self) -> str:
        """The call that loads it."""
        option = ", quantization_config=CompressedTensorsConfig(dequantize=True)" if self.why_dequantize else ""
        return f'AutoModelForCausalLM.from_pretrained("{self.folder}"{option})'


def export(folder: Path, to: Target, out: Path | None = None) -> Exported:
    """Write a packed folder in another form, load it with transformers, and compare every linear bit for bit.

    Args:
        folder: that ``checkpoint.save=true`` wrote.
        to: ``dense`` for an ordinary checkpoint, ``compressed-tensors`` for that library's pack-quantized format.
        out: the folder to write; ``FOLDER-TO`` by default.

    Raises:
        RequestError: if the folder is not ours or is damaged, has a format that the target cannot hold, or ``out`` is
            there already; nothing is written.
        NowagError: if what was written does not load to the same bits; nothing is left behind.
    """
    if to == "compressed-tensors" and importlib.util.find_spec(LIBRARY) is None:
        raise RequestError(
            "export --to compressed-tensors: the package compressed-tensors is not installed; run pip install .[export]"
        )
    named = folder if folder.name not in ("", "..") else folder.resolve()
    target = named.with_name(f"{named.name}-{to}") if out is None else out
    with quiet_libraries():
        packed = PackedFolder.open(folder)
        config = read_config(folder)
        dtype = _model_dtype(folder, config)
        scheme = _Scheme.of(packed, dtype) if to == "compressed-tensors" else None
        with _new_folder(target) as temporary:
            writer = FolderWriter(temporary)
            for linear in packed.layouts:
                if scheme is None:
                    writer.add_tensor(f"{linear}.weight", packed.values(linear, dtype))
                else:
                    for name, tensor in scheme.tensors(packed.weight(linear)).items():
                        writer.add_tensor(f"{linear}.{name}", tensor)
            for name, tensor in packed.other_tensors():
                writer.add_tensor(name, tensor)
            content = {key: value for key, value in config.items() if key != "quantization_config"}
            if scheme is not None:
                content["quantization_config"] = scheme.config(packed.dense_linears)
            n_bytes = writer.finish(content, _beside(folder), folder)
            why_dequantize = scheme.why_dequantize if scheme else ""
            _verify(temporary, packed, dtype, dequantize=bool(why_dequantize))
    return Exported(target, str(dtype).removeprefix("torch."), n_bytes, len(packed.layouts), why_dequantize)


@dataclass(frozen=True)
class _Scheme:
    """The one grid that all linears share, as compressed-tensors describes it.

    Attributes:
        bits: of a code.
        group_size: columns that share a scale; ``None`` for one scale a row.
        symmetric: whether there are no zero points.
        dtype: of the model.
        scale_dtype: the model's, or fp32 if that does not hold every scale exactly. (Decompressing in fp16 would not
            do for a model in bf16: the values would be rounded twice.)
    """

    bits: int
    group_size: int | None
    symmetric: bool
    dtype: torch.dtype
    scale_dtype: torch.dtype

    @classmethod
    def of(cls, packed: PackedFolder, dtype: torch.dtype) -> "_Scheme":
        """The grid of a folder.

        Raises:
            RequestError: naming a linear that is not of integers, or whose grid is not that of the others.
        """
        grids: dict[tuple[int, bool], str] = {}
        sizes: dict[int | None, str] = {}
        exact = True
        for linear, (kind, _) in packed.layouts.items():
            if kind != IntegerWeight.kind:
                raise RequestError(
                    f"{linear}: its format is {kind}, and compressed-tensors has no counterpart of that (since 2:4 "
                    "left it, it stores integers alone); use --to dense"
                )
            weight = packed.weight(linear)
            assert isinstance(weight, IntegerWeight)
            grids.setdefault((weight.bits_per_code, weight.symmetric), linear)
            sizes.setdefault(weight.group_size, linear)
            exact = exact and torch.equal(weight.scales.to(dtype).float(), weight.scales.float())
        if all(layout["group_size"] == layout["d_in"] for _, layout in packed.layouts.values()):
            sizes = {None: next(iter(packed.layouts))}
        for found in (grids, sizes):
            if len(found) > 1:
                first, other = list(found.values())[:2]
                raise RequestError(
                    f"{other}: its bits, group size or symmetry are not those of {first}; transformers loads "
                    "compressed-tensors with one grid for all linears only; use --to dense"
                )
        ((bits, symmetric),), (group_size,) = grids, sizes
        return cls(bits, group_size, symmetric, dtype, dtype if exact else torch.float32)

    @property
    def why_dequantize(self) -> str:
        """What plain loading gets wrong; empty if nothing."""
        if not self.symmetric:
            return "transformers cannot load packed zero points"
        if self.scale_dtype != self.dtype:
            return f"loaded packed, its scales would be rounded to {str(self.dtype).removeprefix('torch.')}"
        return ""

    def tensors(self, weight: Any) -> dict[str, Tensor]:
        """One linear in the library's tensors."""
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

        # The library's integers are signed: ours less half the range.
        middle = 1 << (self.bits - 1)
        tensors = {
            "weight_packed": pack_to_int32((weight.unpacked_codes() - middle).to(torch.int8), self.bits),
            "weight_scale": weight.scales.to(self.scale_dtype),
            "weight_shape": torch.tensor(weight.shape),
        }
        if not self.symmetric:
            tensors["weight_zero_point"] = pack_to_int32(
                (weight.grid.zeros - middle).to(torch.int8), self.bits, packed_dim=0
            )
        return tensors

    def config(self, ignore: list[str]) -> dict[str, Any]:
        """The ``quantization_config`` of the model."""
        from compressed_tensors import __version__
        from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

        strategy = "channel" if self.group_size is None else "group"
        weights = QuantizationArgs(
            num_bits=self.bits, symmetric=self.symmetric, strategy=strategy, group_size=self.group_size
        )
        config = QuantizationConfig(
            config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
            format="pack-quantized",
            quantization_status="compressed",
            ignore=ignore,
        )
        return {"version": __version__, **config.model_dump(mode="json")}


def _model_dtype(folder: Path, config: dict[str, Any]) -> torch.dtype:
    name = config.get("dtype")
    if name not in DTYPES:
        raise RequestError(
            f"{folder / 'config.json'}: dtype must be one of {', '.join(DTYPES)}; got {name!r}; restore config.json"
        )
    return DTYPES[name]


def _beside(folder: Path) -> list[Path]:
    """Tokenizer, chat templates, generation settings and whatever else lies beside the weights."""
    weights = (".safetensors", ".safetensors.index.json")
    files = {path for path in folder.iterdir() if path.is_file() and not path.name.endswith(weights)}
    return sorted({*files, *files_beside_weights(folder)} - {folder / "config.json", folder / MANIFEST})


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target``."""
    parent = target.resolve().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RequestError(f"{target}: cannot be written; name another folder with --out DIR")
    with locked(target):
        if target.exists() or target.is_symlink():
            raise RequestError(f"{target}: is there already; remove it, or name another folder with --out DIR")
        with atomic_folder(target) as temporary:
            yield temporary


def _verify(folder: Path, packed: PackedFolder, dtype: torch.dtype, dequantize: bool) -> None:
    """Load a folder as a user would, and compare every tensor with the packed folder's, bit for bit."""
    try:
        model, report = _load(folder, dequantize)
    except Exception as error:  # Whatever transformers and compressed-tensors raise.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NowagError(
            f"the export was not kept: transformers cannot load it ({reason}); "
            "check it with another version of transformers, and report this as a bug"
        ) from error
    wrong = [name for names in report.values() for name in names]
    if wrong:
        raise NowagError(f"the export was not kept: transformers reports {wrong[0]}; this is a bug: please report it")
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for linear in packed.layouts:
        _compare(f"{linear}.weight", parameters.get(f"{linear}.weight"), packed.values(linear, dtype))
    for name, tensor in packed.other_tensors():
        _compare(name, parameters.get(name), tensor.to(dtype))


def _load(folder: Path, dequantize: bool) -> tuple[nn.Module, dict[str, Any]]:
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    options: dict[str, Any] = {}
    # compressed-tensors has progress bars that nothing turns off.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        if dequantize:
            options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
            # That the file's own settings are used but for this one is what is meant.
            warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, local_files_only=True, trust_remote_code=False, **options
        )
        if getattr(model, "hf_quantizer", None) is not None:
            with torch.inference_mode():
                model(torch.zeros(1, 1, dtype=torch.long))  # compressed-tensors decompresses in the first forward.
    return model, report


def _compare(name: str, found: Tensor | None, expected: Tensor) -> None:
    if found is None or found.dtype != expected.dtype or not _same_bits(found.detach(), expected):
        raise NowagError(
            f"{name}: what transformers loads from the export is not what the packed folder holds, so it was not kept; "
            "use --to dense, and report this as a bug"
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    # Not torch.equal on floats, to which 0 and -0 are equal.
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
