"""A small model packed in any format, beside the ordinary checkpoint that holds the same values."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

    from nowag_exp.formats import CompressedWeight


def packed_weight(kind: str, d_out: int, d_in: int, seed: int, bits: int = 4, group: int = 16) -> "CompressedWeight":
    """A random compressed weight; values are small enough for a forward in 16 bits."""
    import torch

    from nowag_exp.formats import CodebookWeight, IntegerWeight, SparseIntegerWeight, SparseWeight
    from nowag_exp.ops.grids import Grid

    randoms = torch.Generator().manual_seed(seed)
    keep = (torch.rand(d_out, d_in // 4, 4, generator=randoms).argsort(-1).argsort(-1) < 2).reshape(d_out, d_in)
    if kind.startswith("sparse") and kind != "sparse integer":
        weight = torch.randn(d_out, d_in, generator=randoms) / 8
        if kind == "sparse 2:4":
            return SparseWeight.from_mask(weight, keep, "2:4", torch.bfloat16)
        return SparseWeight.from_mask(weight, weight > 0, "unstructured", torch.float16)
    if kind.startswith("codebook"):
        # 3 divides neither width: the last subvector of a row is padded.
        indices = torch.randint(8, (d_out, -(-d_in // 3)), generator=randoms)
        words = torch.randn(8, 3, generator=randoms).half() / 8
        norms = (torch.rand(d_out, generator=randoms) + 0.5, torch.rand(d_in, generator=randoms) + 0.5)
        return CodebookWeight.of(d_in, indices, words, *(norms if kind == "codebook" else (None, None)))
    symmetric = kind == "integer symmetric"
    codes = torch.randint(2**bits, (d_out, d_in), generator=randoms).to(torch.uint8)
    # Scales with all of fp16's 11 bits, which bf16 does not have.
    scales = (torch.rand(d_out, d_in // group, generator=randoms) / 2**bits).half().float()
    zeros = torch.full_like(scales, 2 ** (bits - 1)).int()
    if not symmetric:
        zeros = torch.randint(2**bits, scales.shape, generator=randoms)
    if kind == "sparse integer":
        return SparseIntegerWeight.of(codes, Grid(scales, zeros), bits, symmetric, keep, "2:4")
    return IntegerWeight.of(codes, Grid(scales, zeros), bits, symmetric)


@dataclass(frozen=True)
class Pair:
    """The same model twice.

    Attributes:
        folder: packed.
        reference: an ordinary checkpoint of the decompressed values.
        weights: by linear.
        dtype: of the model.
    """

    folder: Path
    reference: Path
    weights: "dict[str, CompressedWeight]"
    dtype: "torch.dtype"

    def expected(self, linear: str) -> "torch.Tensor":
        return self.weights[linear].decompress().to(self.dtype)


Packer = Callable[..., Pair]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Matrices this small take longer on two threads than on one."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def pack(tmp_path: Path, one_thread: None) -> Packer:
    """Write a packed folder and its reference."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from nowag_exp.formats.folder import MANIFEST, FolderWriter
    from nowag_exp.manifest import write_manifest
    from nowag_exp.quiet import quiet_libraries

    def _pack(
        kind: str = "integer",
        dtype: str = "float32",
        make: Callable[[str, int, int, int], Any] | None = None,
        **config: Any,
    ) -> Pair:
        described = LlamaConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=None,
            **config,
        )
        folder, reference = tmp_path / "packed", tmp_path / "reference"
        folder.mkdir()
        with torch.random.fork_rng(devices=[]), quiet_libraries():
            torch.manual_seed(0)
            model = LlamaForCausalLM(described).to(getattr(torch, dtype))
            for name, parameter in model.named_parameters():
                if name.endswith(".bias"):
                    torch.nn.init.normal_(parameter)
            linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
            weights = {
                name: (make or (lambda name, *rest: packed_weight(kind, *rest)))(name, *linear.weight.shape, seed)
                for seed, (name, linear) in enumerate(linears.items())
            }
            writer = FolderWriter(folder)
            for name, weight in weights.items():
                writer.add_weight(name, weight)
                linears[name].weight.data = weight.decompress().to(getattr(torch, dtype))
            for name, parameter in model.named_parameters():
                if name.removesuffix(".weight") not in weights:
                    writer.add_tensor(name, parameter)
            model.save_pretrained(reference)
            beside = tmp_path / "tokenizer.json"
            beside.write_text("{}")
            described_as = {**described.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": dtype}
            writer.finish(described_as, [beside])
            write_manifest(folder / MANIFEST)
        return Pair(folder, reference, weights, getattr(torch, dtype))

    return _pack
