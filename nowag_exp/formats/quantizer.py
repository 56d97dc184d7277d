"""Packed checkpoints in transformers: ``import nowag_exp``, then ``AutoModelForCausalLM.from_pretrained(folder)``.

Linears stay packed in memory; they are decompressed in a forward, or once with ``dequantize``. Registered when
transformers is imported, see ``nowag_exp/__init__.py``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers.quantizers.auto as auto
from torch import Tensor, nn
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from nowag_exp.errors import RequestError
from nowag_exp.formats import FORMATS
from nowag_exp.formats.base import CompressedWeight, FormatError, TensorSpec
from nowag_exp.formats.codebook import CodebookWeight
from nowag_exp.formats.folder import (
    AGAIN,
    FORMAT_VERSION,
    QUANT_METHOD,
    PackedFolder,
    read_config,
    require_as_written,
    shards,
)

FEW_ROWS = 8
"""Rows of activations up to which a codebook weight is not decompressed. 4096×4096, 4096 codewords of 6, fp32, one core
with AVX-512: 4 ms for one row and 18 ms for eight, and 50 to 55 ms to decompress and multiply (November 2026). On a GPU
this was not measured."""


class PackedLinear(nn.Module):
    """A linear whose weight stays compressed.

    A few rows of activations, as when text is generated, are multiplied with a codebook weight as it is held: its
    values are then not rounded to the model's dtype. With more rows, and in the other formats, the weight is
    decompressed for each forward.

    Its buffers keep their data types whatever the model is cast to; the cast reaches the decompressed weight.

    Args:
        name: of the linear in the model.
        kind: name of the format.
        layout: of the compressed weight.
        specs: its tensors, which become buffers.
        dtype: of the decompressed weight.
        bias: taken over from the linear that this one replaces.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        layout: dict[str, Any],
        specs: dict[str, TensorSpec],
        dtype: torch.dtype,
        bias: nn.Parameter | None,
    ) -> None:
        super().__init__()
        self.name, self.kind, self.layout, self.dtype = name, kind, layout, dtype
        self.in_features, self.out_features = layout["d_in"], layout["d_out"]
        for tensor, spec in specs.items():
            assert isinstance(spec.dtype, torch.dtype)
            self.register_buffer(tensor, torch.empty(spec.shape, dtype=spec.dtype, device="meta"))
        self.bias = bias

    @property
    def compressed(self) -> CompressedWeight:
        """The weight as it is held."""
        return FORMATS[self.kind].restore(self.layout, dict(self.named_buffers()))

    def dense_weight(self) -> Tensor:
        """The weight as it is used.

        Raises:
            RequestError: if the tensors contradict one another.
        """
        try:
            return self.compressed.dense(self.dtype)
        except FormatError as error:
            raise RequestError(f"{self.name}: {error}; {AGAIN}") from error

    def forward(self, activations: Tensor) -> Tensor:
        few = 0 < activations.numel() <= FEW_ROWS * self.in_features
        differentiated = torch.is_grad_enabled() and activations.requires_grad
        if self.kind == CodebookWeight.kind and few and not differentiated:
            held = self.compressed
            assert isinstance(held, CodebookWeight)
            products = held.product(activations.reshape(-1, self.in_features))
            products = products.view(*activations.shape[:-1], self.out_features)
            return products if self.bias is None else products + self.bias
        return nn.functional.linear(activations, self.dense_weight(), self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, format={self.kind}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        """Move the buffers, never cast them: a codebook in fp16 is what it is in a model in bf16, too."""
        held = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in held.items():
            applied = getattr(self, name)
            if applied.dtype != buffer.dtype:
                setattr(self, name, buffer.to(applied.device))
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self


@auto.register_quantization_config(QUANT_METHOD)
class NowagExpConfig(QuantizationConfigMixin):
    """What ``config.json`` says of the packed linears; a user sets ``dequantize`` alone.

    Args:
        dequantize: decompress once while loading; the model is then an ordinary dense one.
        weights: layout of each linear.
        sha256: of each shard.
        format_version: of the folder.
        quant_method: always ``nowag_exp``.

    Raises:
        RequestError: if anything else is given.
    """

    def __init__(
        self,
        dequantize: Any = False,  # From a file, like the rest: PackedFolder checks what they are.
        weights: Any = None,
        sha256: Any = None,
        format_version: Any = FORMAT_VERSION,
        quant_method: Any = QUANT_METHOD,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise RequestError(
                f"quantization_config: {', '.join(sorted(unknown))} is unknown; there are: dequantize, weights, "
                "sha256, format_version, quant_method"
            )
        self.quant_method = quant_method
        self.dequantize = dequantize
        self.weights = weights
        self.sha256 = sha256
        self.format_version = format_version

    def get_loading_attributes(self) -> dict[str, Any]:
        """What a user may choose when loading."""
        return {"dequantize": self.dequantize}

    def to_dict(self) -> dict[str, Any]:
        """What is written when the model is saved again."""
        return {name: value for name, value in super().to_dict().items() if value is not None}


# Without this, transformers would ignore from_pretrained(..., quantization_config=NowagExpConfig(dequantize=True)).
auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*auto.LOADING_ATTRIBUTES_CONFIG_TYPES, NowagExpConfig)


@auto.register_quantizer(QUANT_METHOD)
class NowagExpQuantizer(HfQuantizer):
    """Puts packed linears into the skeleton, after the files have been checked."""

    requires_calibration = True

    def update_attn_implementation(self, config: Any) -> Any:
        """Look for damage: this hook is the last one before transformers would stumble over it."""
        folder = Path(config.name_or_path or "")
        if (folder / "config.json").is_file():
            described = read_config(folder).get("quantization_config")
            # Another config.json than the one that is being loaded (from a subfolder, say) tells nothing.
            if isinstance(described, dict) and described.get("weights") == self.quantization_config.weights:
                require_as_written(folder)
                shards(folder)
        return config

    def _process_model_before_weight_loading(self, model: Any, checkpoint_files: Any = None, **kwargs: Any) -> None:
        named = model.config.architectures or []
        if named and type(model).__name__ not in named:
            raise RequestError(
                f"{model.name_or_path}: is packed as {', '.join(named)}, not as {type(model).__name__}; load it with "
                "AutoModelForCausalLM (its .model is without the head), or make an ordinary checkpoint of it first: "
                "nowag-exp export FOLDER --to dense"
            )
        files = [Path(file) for file in checkpoint_files or []]
        if Path(model.name_or_path).is_dir():  # Not from a hub; a subfolder is known only now.
            for parent in {file.parent for file in files}:
                require_as_written(parent)
        folder = PackedFolder(files, self.quantization_config.to_dict(), model)
        for linear, (kind, layout) in folder.layouts.items():
            dense = model.get_submodule(linear)
            packed = PackedLinear(linear, kind, layout, folder.specs(linear), dense.weight.dtype, dense.bias)
            model.set_submodule(linear, packed)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        # The shards that the hashes are of are not the ones that save_pretrained will write.
        self.quantization_config.sha256 = None
        if self.quantization_config.dequantize:
            self._dequantize(model)
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | str | None = None) -> Any:
        # A config.json gives its dtype as a string, and model.dequantize() hands that on.
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        for name, module in list(model.named_modules()):
            if isinstance(module, PackedLinear):
                dense = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
                dense.weight = nn.Parameter(module.dense_weight().to(dtype or module.dtype), requires_grad=False)
                dense.register_parameter("bias", module.bias)
                dense.train(module.training)
                model.set_submodule(name, dense)
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False
