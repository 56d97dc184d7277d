"""What a ``config.json`` will be built as: the plain Llama whose blocks are run here, or it is refused.

transformers builds the class that ``model_type`` names, whatever ``architectures`` says, and passes over keys that this
class does not know. So a key to which another family gives a meaning, a sliding window or a multiplier, would be left
out of every number without a word.
"""

import functools
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nowag_exp.errors import RequestError
from nowag_exp.files import read_json_object

ARCHITECTURE, CONFIGURATION = "LlamaForCausalLM", "LlamaConfig"

NOTES = frozenset(
    {
        # Where the model is from and who wrote the file.
        "_commit_hash",
        "_model_name_or_path",
        "_name_or_path",
        "auto_map",  # Code that is never run.
        "finetuning_task",
        "model_type",
        "name_or_path",
        "task_specific_params",
        "transformers.js_config",
        "unsloth_fixed",
        "unsloth_version",
        # How it was or is to be computed, in ways that give the same numbers.
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_experts_implementation",
        "_flash_attn_2_enabled",
        "attn_implementation",
        "experts_implementation",
        "gradient_checkpointing",
        "keys_to_ignore_at_inference",
        "tie_last_hidden_states",
        "torch_dtype",
        "torchscript",
        "use_bfloat16",
        "use_flash_attention",
        "use_flash_attn",
        # Training alone.
        "attention_probs_dropout_prob",
        "attn_pdrop",
        "classifier_dropout",
        "dropout",
        "embd_pdrop",
        "hidden_dropout",
        "hidden_dropout_prob",
        "neftune_noise_alpha",
        "resid_pdrop",
        # The tokenizer's, and notes on lengths that the model does not read.
        "max_sequence_length",
        "model_max_length",
        "prefix",
        "tokenizer_class",
        "tokenizer_model_max_length",
        # What every transformer has a place for; a Llama is a decoder whatever it says.
        "is_decoder",
        "num_labels",
        "max_window_layers",  # Of a sliding window, which has a key of its own.
        # Older names, which are read.
        "original_max_position_embeddings",
        "rope_scaling",
        "rope_theta",
        # Looked at elsewhere.
        "quantization_config",
        "transformers_weights",
    }
)
"""Keys that the configuration's class does not have, and whose value changes nothing."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (None, False),
    "alibi": (None, False),
    "bias": (None, False),
    "embedding_multiplier": (None, 1),
    "is_causal": (True,),
    "is_encoder_decoder": (None, False),
    "is_llama_config": (None, True),
    "layer_types": (None, "full_attention"),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "partial_rotary_factor": (None, 1),
    "per_layer_config": (None, {}),
    "position_embedding_type": (None, "rope"),
    "pruned_heads": (None, {}),
    "qk_layernorm": (None, False),
    "qk_norm": (None, False),
    "residual_multiplier": (None, 1),
    "rope_interleaved": (None, False),
    "rope_pct": (None, 1),
    "rotary_pct": (None, 1),
    "tie_encoder_decoder": (None, False),
    "use_alibi": (None, False),
    "use_qk_norm": (None, False),
    "use_sliding_window": (None, False),
}
"""The values with which these mean what a plain Llama does; of a list, each entry has one of them."""

MOST_BLOCKS = 2000
"""The deepest Llama has 126; each takes memory, though none has weights when it is described."""

ROPE = "rope_parameters", "rope_scaling"
ROPE_NOTES = frozenset({"finetuned", "type"})


def require_llama(config: Mapping[str, Any], where: Path) -> None:
    """Check that what a ``config.json`` will be built as is a plain Llama, and that this is all it describes.

    Args:
        config: its content.
        where: it is, for messages.

    Raises:
        RequestError: naming the file, key and value, if it is not.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = config.get("architectures")
    if named != [ARCHITECTURE]:
        raise _refused(where, "architectures", named, f"is not supported; give one of: {ARCHITECTURE}")
    kind = config.get("model_type")
    built = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind) if isinstance(kind, str) else None
    if (CONFIG_MAPPING_NAMES.get(kind) if built else None, built) != (CONFIGURATION, ARCHITECTURE):
        raise _refused(
            where,
            "model_type",
            kind,
            f"builds {built or 'no model that transformers knows'}, though architectures says {ARCHITECTURE}; give a "
            "model of which both say the same, or download this one again",
        )
    for key, value in config.items():
        if not _changes_nothing(config, key, value):
            raise _refused(
                where,
                key,
                value,
                f"is no setting of a plain {ARCHITECTURE}: a model that needs it would be computed wrongly; give "
                "another model, or remove the key from a copy if you know that it changes nothing",
            )
    for key in ROPE:
        _require_read_rope(config.get(key), key, where)


def described(folder: Path, gguf_file: str | None = None, **options: Any) -> nn.Module:
    """The model that a folder or a GGUF file in it describes, on the meta device.

    Args:
        folder: in Hugging Face layout, or of the file.
        gguf_file: is read instead of ``config.json``.
        options: those of transformers' ``from_config``.

    Raises:
        RequestError: if it is not a plain Llama.
        Exception: if it is no model; transformers checks nothing, so its kind depends on what is wrong.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

    source: dict[str, Any] = {} if gguf_file is None else {"gguf_file": gguf_file}
    if gguf_file is None:
        require_llama(read_json_object(folder / "config.json"), folder / "config.json")
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **source)
    if not 1 <= config.num_hidden_layers <= MOST_BLOCKS:
        raise ValueError(f"num_hidden_layers must be between 1 and {MOST_BLOCKS}, not {config.num_hidden_layers}")
    # Not accelerate's init_empty_weights: it takes memory for each parameter and gives it back, and what else is taken
    # in between makes the heap as long as the model.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **options)
    if type(model) is not LlamaForCausalLM:  # What another library registered, or a GGUF file says.
        raise ValueError(f"it would be built as {type(model).__name__}, not as {ARCHITECTURE}")
    return model


def _changes_nothing(config: Mapping[str, Any], key: str, value: Any) -> bool:
    """Whether a key means to a plain Llama what it means to others, or nothing to any."""
    if key == "sliding_window":
        return value is None or config.get("use_sliding_window") is False
    if key in NEUTRAL:
        return all(entry in NEUTRAL[key] for entry in (value if isinstance(value, list) else [value]))
    return value is None or key in NOTES or key in _read() or key.endswith("_token_id")


@functools.cache
def _read() -> frozenset[str]:
    """Keys that the configuration's class has, and those that only say how to generate."""
    from transformers import GenerationConfig, LlamaConfig

    return frozenset({field.name for field in fields(LlamaConfig)} | GenerationConfig().to_dict().keys())


def _require_read_rope(rope: Any, key: str, where: Path) -> None:
    """Hold the settings of the rotary embedding against those that are read, as other families nest or cut theirs."""
    from transformers.modeling_rope_utils import RopeParameters

    if not isinstance(rope, dict):
        return
    for name, value in rope.items():
        part = name == "partial_rotary_factor" and value not in NEUTRAL[name]
        if part or name == "mrope_section" or name not in {*RopeParameters.__annotations__, *ROPE_NOTES}:
            raise _refused(
                where, f"{key}.{name}", value, f"is no setting of a plain {ARCHITECTURE}; give another model"
            )


def _refused(where: Path, key: str, value: Any, why: str) -> RequestError:
    return RequestError(f"{where}: {key}={' '.join(repr(value).split())[:100]} {why}")
