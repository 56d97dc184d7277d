"""What a config.json will be built as: a plain Llama that gives transformers' own logits, or it is refused by key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
)

from nowag_exp.errors import RequestError
from nowag_exp.formats.folder import skeleton
from nowag_exp.formats.llama import require_llama
from nowag_exp.models import Batch, CausalLM, Checkpoint, LocalModel
from nowag_exp.models.tiny import byte_tokenizer

PLAIN = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
IDS = torch.randint(258, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one block, whose context is longer than the windows that the tests put into its config.json."""
    folder = tmp_path_factory.mktemp("sound")
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.5,
        eos_token_id=257,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saying(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The model in a folder whose config.json says more, or something else."""
    folder = Path(shutil.copytree(sound, tmp_path_factory.mktemp("saying") / "own"))
    original = json.loads((sound / "config.json").read_text())

    def _saying(**values: Any) -> Path:
        (folder / "config.json").write_text(json.dumps({**original, **values}))
        return folder

    return _saying


def ours(folder: Path) -> LocalModel:
    return LocalModel(context_length=12, dtype="float32", group_size=16, path=str(folder))


def logits(model: CausalLM) -> torch.Tensor:
    (hidden,) = model.last_hidden([Batch(IDS)])
    return model.logits(hidden)


def loaded(folder: Path) -> CausalLM:
    return CausalLM.load(Checkpoint(folder), torch.float32, torch.device("cpu"))


def streamed(folder: Path) -> CausalLM:
    return CausalLM.streamed(Checkpoint(folder), torch.float32, torch.device("cpu"))


WAYS: dict[str, Callable[[Path], object]] = {
    "checked": lambda folder: ours(folder).check(),
    "planned": lambda folder: ours(folder).sizes(),
    "loaded": loaded,
    "streamed": streamed,
    "exported": lambda folder: skeleton(folder, "make it again"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "mistral", "sliding_window": 4}, ["model_type='mistral'", "MistralForCausalLM"]),
        ({"model_type": None}, ["model_type=None"]),
        ({"architectures": ["MistralForCausalLM"]}, ["architectures=['MistralForCausalLM']"]),
        ({"embedding_multiplier": 12.0}, ["embedding_multiplier=12.0"]),
        ({"configuration_files": ["config.4.0.0.json"]}, ["configuration_files="]),
    ],
    ids=["another family", "no family", "another architecture", "a multiplier", "another file"],
)
def test_what_would_be_built_as_anything_but_a_plain_llama_is_refused_by_file_and_key_on_every_way(
    saying: Callable[..., Path], way: Callable[[Path], object], values: dict[str, Any], said: list[str]
) -> None:
    folder = saying(**values)
    with pytest.raises(RequestError) as refused:
        way(folder)
    for words in (str(folder / "config.json"), *said):
        assert words in str(refused.value)


NUMBERS = st.sampled_from([None, False, True, 0, 1, 1.0, 0.5, 4, 50.0])
MEANT_BY_OTHERS = [
    "sliding_window",
    "use_sliding_window",
    "attention_chunk_size",
    "is_causal",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "final_logit_softcapping",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "use_qk_norm",
    "pretraining_tp",
    "temperature",
    "is_encoder_decoder",
    "attention_dropout",
]
STRUCTURED = {
    "rope_scaling": [
        None,
        {"type": "linear", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
    ],
    "layer_types": [None, ["full_attention"], ["sliding_attention"]],
    "per_layer_config": [None, {}, {"0": {"hidden_act": "relu"}}],
    "rope_theta": [100.0, 500000.0],
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@example(family=PLAIN, extra={"sliding_window": 4, "use_sliding_window": False}, structured={})
@given(
    family=st.sampled_from([PLAIN, PLAIN, PLAIN, {**PLAIN, "model_type": "mistral"}]),
    extra=st.dictionaries(st.sampled_from(MEANT_BY_OTHERS), NUMBERS, max_size=2),
    structured=st.one_of(
        [st.just({}), *(st.fixed_dictionaries({key: st.sampled_from(values)}) for key, values in STRUCTURED.items())]
    ),
)
def test_what_is_taken_gives_the_logits_that_transformers_gives(
    saying: Callable[..., Path], family: dict[str, Any], extra: dict[str, Any], structured: dict[str, Any]
) -> None:
    folder = saying(**family, **extra, **structured)
    try:
        ours(folder).check()
    except RequestError:
        return
    found = logits(loaded(folder))
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(streamed(folder)), found)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (GraniteConfig(embedding_multiplier=12.0), "embedding_multiplier"),
        (GraniteConfig(attention_multiplier=0.5), "attention_multiplier"),
        (MistralConfig(sliding_window=4), "sliding_window"),
        (Gemma2Config(), "query_pre_attn_scalar"),
        (CohereConfig(), "logit_scale"),
    ],
    ids=["granite", "granite's attention", "mistral", "gemma", "cohere"],
)
def test_another_familys_configuration_that_calls_itself_a_llama_is_refused(config: Any, key: str) -> None:
    said = {**config.to_dict(), **PLAIN}
    with pytest.raises(RequestError, match=r"config\.json: "):
        require_llama(said, Path("config.json"))
    with pytest.raises(RequestError, match=f"{key}="):
        require_llama({**LlamaConfig().to_dict(), **PLAIN, key: said[key]}, Path("config.json"))


ORDINARY = {
    **PLAIN,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "vocab_size": 49152,
}
LLAMA_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
OF_A_PUBLISHED_MODEL = {
    "Llama-2": {"_name_or_path": "meta-llama/Llama-2-7b-hf", "pad_token_id": 0, "max_length": 4096},
    "Llama-3.2": {
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "mlp_bias": False,
        "rope_scaling": {**LLAMA_3, "rope_type": "llama3"},
        "rope_theta": 500000.0,
    },
    "SmolLM2": {
        "is_llama_config": True,
        "rope_interleaved": False,
        "rope_theta": 100000,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    },
    "Yarn-Llama-2": {
        "auto_map": {"AutoModelForCausalLM": "modeling_llama_together_yarn.LlamaForCausalLM"},
        "rope_scaling": {"factor": 16.0, "finetuned": True, "original_max_position_embeddings": 4096, "type": "yarn"},
    },
    "Vicuna": {"max_sequence_length": 2048, "temperature": 0.9, "top_p": 0.6, "pad_token_id": 0},
    "tuned by unsloth": {"unsloth_fixed": True, "unsloth_version": "2025.1.5", "_attn_implementation_autoset": True},
    "another family rewritten as Llama": {"bias": False, "sliding_window": None, "attn_implementation": "sdpa"},
    "converted from GGUF": {"_model_name_or_path": "Smollm2 135M 8k Lc100K Mix1 Ep2", "unk_token_id": 0},
}


@pytest.mark.parametrize("said", OF_A_PUBLISHED_MODEL.values(), ids=OF_A_PUBLISHED_MODEL)
def test_what_published_llamas_say_is_taken(said: dict[str, Any]) -> None:
    require_llama({**ORDINARY, **said}, Path("config.json"))
