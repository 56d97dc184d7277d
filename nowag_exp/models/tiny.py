"""A Llama with random weights and a byte tokenizer: every code path in a second, no download, no meaning."""

from pathlib import Path
from typing import Any

from nowag_exp.files import cache_dir
from nowag_exp.models.converted import converted
from nowag_exp.models.sources import ModelSource
from nowag_exp.quiet import quiet_libraries
from nowag_exp.settings import Seed, settings

MOST_BLOCKS = 1000
"""More are a slip, and would fill the memory."""

VERSION = 1
"""Raised when the same settings would give other weights."""


@settings
class TinyModel(ModelSource):
    """Random weights.

    Attributes:
        n_blocks: decoder layers.
        hidden_size: a multiple of ``2 * n_heads``.
        intermediate_size: width of the MLP.
        n_heads: query heads; half as many key and value heads.
        init_seed: of the weights.
    """

    n_blocks: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    init_seed: Seed

    def __post_init__(self) -> None:
        for name in ("n_blocks", "hidden_size", "intermediate_size", "n_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1; got {getattr(self, name)}")
        if self.n_blocks > MOST_BLOCKS:
            raise ValueError(f"n_blocks: must be at most {MOST_BLOCKS}; got {self.n_blocks}")
        if self.hidden_size % (2 * self.n_heads) or self.n_heads % 2:
            raise ValueError(
                f"hidden_size: {self.hidden_size} must be a multiple of 2 * n_heads, and n_heads ({self.n_heads}) even"
            )

    @property
    def label(self) -> str:
        return "tiny"

    def folder(self) -> Path:
        shape = f"{self.n_blocks}x{self.hidden_size}x{self.intermediate_size}x{self.n_heads}"
        return converted(cache_dir() / "models" / f"tiny-v{VERSION}-{shape}-seed{self.init_seed}", self._make)

    def weights_identity(self) -> dict[str, Any]:
        sizes = ("n_blocks", "hidden_size", "intermediate_size", "n_heads", "init_seed")
        return {"version": VERSION, **{name: getattr(self, name) for name in sizes}}

    def _make(self, folder: Path) -> dict[str, Any]:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = byte_tokenizer()
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.n_blocks,
            num_attention_heads=self.n_heads,
            num_key_value_heads=self.n_heads // 2,
            max_position_embeddings=2048,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        with torch.random.fork_rng(devices=[]), quiet_libraries():
            torch.manual_seed(self.init_seed)
            LlamaForCausalLM(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return self.weights_identity()


def byte_tokenizer() -> Any:
    """One token a byte, with BOS and EOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
