"""Peak resident memory against depth: NoWag-P on Llama shapes of one width, streamed, against the whole model loaded.

Random weights in bfloat16 are written to disk a block at a time, so that not even the model that is made is ever whole.
The floor is the interpreter with what it imports (a run on the tiny model), and one block in the dtype of the model.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.children import COMMAND, Cost, run_child
from benchmarks.timing import Comparison, Wanted
from nowag_exp.models import Architecture
from nowag_exp.models.tiny import byte_tokenizer

WIDTH = Architecture(
    hidden_size=2048,
    intermediate_size=5632,
    n_blocks=1,
    n_heads=32,
    n_kv_heads=8,
    head_dim=64,
    vocabulary=258,
    tied=False,
)
"""Of every model; 45 million weights a block."""

DEPTHS = (3, 6, 12, 30, 66)
"""0.14 to 3 billion weights; the last two are ten and twenty-two times the first."""

GROWTH = 1.1
"""Most that the peak may grow by while the checkpoint grows tenfold and more."""

MEMORY_OF_3B = 4000.0
"""Most that the deepest may take, in MB."""

MB = 1e6
TOKENS = ("calibration.n_sequences=4", "model.context_length=128", "evaluation.files.n_windows=4")


def write_model(folder: Path, n_blocks: int, sizes: Architecture = WIDTH) -> None:
    """A Llama with random weights, a shard a block, and a tokenizer of bytes."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    shard_of: dict[str, str] = {}

    def write(shard: str, shapes: dict[str, tuple[int, ...]]) -> None:
        save_file({name: _random(shape, generator) for name, shape in shapes.items()}, folder / shard, {"format": "pt"})
        shard_of.update(dict.fromkeys(shapes, shard))

    hidden = sizes.hidden_size
    table = (sizes.vocabulary, hidden)
    write(
        "outer.safetensors",
        {"model.embed_tokens.weight": table, "model.norm.weight": (hidden,), "lm_head.weight": table},
    )
    for index in range(n_blocks):
        shapes: dict[str, tuple[int, ...]] = {f"{path}.weight": shape for path, shape in sizes.linears().items()}
        shapes |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
        prefix = f"model.layers.{index}."
        write(f"block{index}.safetensors", {prefix + name: shape for name, shape in shapes.items()})
    index_file = {"metadata": {}, "weight_map": shard_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file), encoding="utf-8")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": n_blocks,
        "num_attention_heads": sizes.n_heads,
        "num_key_value_heads": sizes.n_kv_heads,
        "head_dim": sizes.head_dim,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    byte_tokenizer().save_pretrained(folder)


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (torch.randn(shape, generator=generator) / shape[1] ** 0.5).bfloat16()


def run(bench: Bench) -> Iterator[Comparison]:
    del bench
    with tempfile.TemporaryDirectory(prefix="nowag_exp-benchmark-") as name:
        yield from depths(Path(name), DEPTHS, WIDTH)


def depths(folder: Path, n_blocks: tuple[int, ...], sizes: Architecture) -> Iterator[Comparison]:
    """Each depth streamed and loaded whole, then the deepest against the shallowest."""
    (folder / "text.txt").write_text("A sentence of no meaning, again and again. " * 200, encoding="utf-8")
    empty = _compress(folder, "model=tiny", "warm", "never")
    floor = (empty.peak_bytes + 2.0 * sizes.block_weights) / MB
    peaks: list[float] = []
    for depth in n_blocks:
        write_model(folder / "model", depth, sizes)
        n_bytes = sum(file.stat().st_size for file in (folder / "model").iterdir())
        of_model = f"model=local model.path={folder / 'model'}"
        streamed = _compress(folder, of_model, f"streamed{depth}", "always")
        whole = _compress(folder, of_model, f"whole{depth}", "never")
        peaks.append(streamed.peak_bytes / MB)
        yield Comparison(
            f"peak memory, NoWag-P, {depth} blocks: streamed, against loaded whole",
            streamed.peak_bytes / MB,
            whole.peak_bytes / MB,
            (whole.peak_bytes / streamed.peak_bytes,),
            floor,
            Wanted(at_most=MEMORY_OF_3B) if depth == max(n_blocks) else Wanted(),
            "MB",
            {"checkpoint, MB": n_bytes / MB, "seconds": streamed.seconds, "seconds whole": whole.seconds},
        )
        for file in (folder / "model").iterdir():
            file.unlink()
        (folder / "model").rmdir()
    yield Comparison(
        f"peak memory streamed: {n_blocks[-1]} blocks, against {n_blocks[0]}",
        peaks[-1],
        peaks[0],
        (peaks[0] / peaks[-1],),
        floor,
        Wanted(ratio=round(1 / GROWTH, 2)),
        "MB",
    )


def _compress(folder: Path, model: str, results: str, offload: str) -> Cost:
    text = folder / "text.txt"
    return run_child(
        (
            *COMMAND,
            "run",
            *model.split(),
            "method=nowag_p",
            "calibration=files",
            f"calibration.path={text}",
            "evaluation=files",
            f"evaluation.files.path={text}",
            *TOKENS,
            f"runtime.offload={offload}",
            "checkpoint.save=true",
            f"paths.results={folder / results}",
        )
    )
