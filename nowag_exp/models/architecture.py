"""The sizes of a Llama, from which the shape of every weight follows."""

from collections.abc import Mapping
from typing import Any

from nowag_exp.errors import RequestError
from nowag_exp.settings import settings


@settings
class Architecture:
    """Sizes of a model; they say nothing that its ``config.json`` does not, so they are no part of its identity.

    Attributes:
        hidden_size: width between the blocks.
        intermediate_size: width of the MLP.
        n_blocks: decoder layers.
        n_heads: query heads.
        n_kv_heads: key and value heads.
        head_dim: width of a head.
        vocabulary: tokens that have an embedding.
        tied: whether the embedding is the language-model head as well.
    """

    hidden_size: int
    intermediate_size: int
    n_blocks: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "tied" and value < 1:
                raise ValueError(f"{name}: must be at least 1; got {value}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads: must divide the {self.n_heads} heads; got {self.n_kv_heads}")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Architecture":
        """From a ``config.json``, with the defaults that transformers has for a Llama.

        Raises:
            RequestError: if it lacks a size, or has one that is none.
        """
        try:
            hidden, heads = config["hidden_size"], config["num_attention_heads"]
            return cls(
                hidden_size=hidden,
                intermediate_size=config["intermediate_size"],
                n_blocks=config["num_hidden_layers"],
                n_heads=heads,
                n_kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or hidden // heads,
                vocabulary=config["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError, ArithmeticError, ValueError) as error:  # pydantic's is a ValueError.
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise RequestError(f"config.json does not describe a Llama ({reason}); download the model again") from error

    def linears(self) -> dict[str, tuple[int, int]]:
        """``(d_out, d_in)`` of each linear of a block, by its path inside the block."""
        hidden, wide = self.hidden_size, self.intermediate_size
        queries, keys = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }

    @property
    def block_weights(self) -> int:
        """Weights of the linears of one block."""
        return sum(d_out * d_in for d_out, d_in in self.linears().values())

    @property
    def n_parameters(self) -> int:
        """Of the whole model: linears, two norms a block and one at the end, the embedding, and the head if apart."""
        tables = self.vocabulary * self.hidden_size * (1 if self.tied else 2)
        return self.n_blocks * (self.block_weights + 2 * self.hidden_size) + self.hidden_size + tables
