"""The linears of a Llama block, by the activation that they read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nowag_exp.models.architecture import Architecture


@dataclass(frozen=True)
class Site:
    """An input site: linears of a block that read the same activation.

    Attributes:
        name: of the site.
        linears: paths inside the block.
    """

    name: str
    linears: tuple[str, ...]

    def names(self, block: int) -> list[str]:
        """Full names of its linears in a block, ``model.layers.3.mlp.up_proj``."""
        return [f"model.layers.{block}.{path}" for path in self.linears]


SITES = (
    Site("attention_input", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Site("attention_output", ("self_attn.o_proj",)),
    Site("mlp_input", ("mlp.gate_proj", "mlp.up_proj")),
    Site("mlp_output", ("mlp.down_proj",)),
)
"""The four input sites of a Llama block, in the order in which they are computed."""

PATHS = tuple(path for site in SITES for path in site.linears)
"""The linears of a block, by their paths inside it."""


def linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """``(d_out, d_in)`` of each linear of a block, from a checked ``config.json``."""
    return Architecture.of(config).linears()
