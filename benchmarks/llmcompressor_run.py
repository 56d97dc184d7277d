"""One run of llmcompressor, in its own environment: ``python llmcompressor_run.py METHOD MODEL TOKENS OUT``.

Imports nothing of ours: that environment has other versions of everything. Settings are theirs by default and by their
examples: the sequential pipeline, GPTQ with static activation ordering, the head left alone, weights saved compressed.
"""

import sys
from pathlib import Path
from typing import Any

BATCH = 4
"""Windows of a forward pass, as many as ours takes."""


def recipe(method: str) -> Any:
    """The modifier with the settings that both sides have."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    targets: dict[str, Any] = {"targets": ["Linear"], "ignore": ["lm_head"]}
    pruned: dict[str, Any] = {"sparsity": 0.5, "mask_structure": "0:0", "ignore": ["re:.*lm_head"]}
    if method == "sparsegpt":
        return SparseGPTModifier(**pruned, block_size=128, dampening_frac=0.01)
    if method == "wanda":
        return WandaPruningModifier(**pruned)
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 64}
    groups = {"group_0": {"targets": targets["targets"], "weights": weights}}
    return GPTQModifier(config_groups=groups, ignore=targets["ignore"], block_size=128, dampening_frac=0.01)


def compress(method: str, model_folder: Path, tokens: Path, out: Path) -> None:
    """Compress on these tokens and save, as a user of theirs would."""
    from llmcompressor import oneshot
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    ids = load_file(tokens)["ids"]

    def collate(rows: list[int]) -> dict[str, Any]:
        chosen = ids[rows]
        return {"input_ids": chosen, "attention_mask": chosen.new_ones(chosen.shape)}

    loader: Any = DataLoader(range(len(ids)), batch_size=BATCH, collate_fn=collate)  # type: ignore[arg-type]
    oneshot(model=model, tokenizer=tokenizer, dataset=loader, recipe=recipe(method), num_calibration_samples=len(ids))
    model.save_pretrained(out, save_compressed=True)
    tokenizer.save_pretrained(out)


def export(compressed: Path, out: Path) -> None:
    """Write the weights that their checkpoint stands for as a plain one."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.quantization_config import CompressedTensorsConfig

    described = '"quantization_config"' in (compressed / "config.json").read_text(encoding="utf-8")
    how = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if described else {}
    model = AutoModelForCausalLM.from_pretrained(compressed, dtype=torch.float32, **how)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    # Scales and zeros stay behind when their weights are decompressed.
    plain = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(".weight")}
    model.save_pretrained(out, state_dict=plain)


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        compress(sys.argv[1], *map(Path, sys.argv[2:5]))
