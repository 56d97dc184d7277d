"""A loaded Llama as blocks: embed, run one block at a time, and name the linears by the activation they read."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError
from torch import Tensor, nn

from nowag_exp.errors import RequestError
from nowag_exp.models.architecture import Architecture
from nowag_exp.models.checkpoint import Checkpoint
from nowag_exp.quiet import quiet_libraries


@dataclass(frozen=True)
class Site:
    """An input site: linears of a block that read the same activation.

    Attributes:
        name: of the site.
        linears: paths inside the block.
    """

    name: str
    linears: tuple[str, ...]


SITES = (
    Site("attention_input", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Site("attention_output", ("self_attn.o_proj",)),
    Site("mlp_input", ("mlp.gate_proj", "mlp.up_proj")),
    Site("mlp_output", ("mlp.down_proj",)),
)
"""The four input sites of a Llama block, in the order in which they are computed."""

ARCHITECTURES = ("LlamaForCausalLM",)


def check_architecture(config: Mapping[str, Any], label: str) -> None:
    """Check that ``config.json`` describes a model whose sites we know.

    Raises:
        RequestError: if it does not, or the model is quantized already.
    """
    architectures = config.get("architectures") or []
    if not set(architectures) & set(ARCHITECTURES):
        raise RequestError(
            f"model {label}: architecture {', '.join(architectures) or 'unknown'} is not supported; "
            f"give one of: {', '.join(ARCHITECTURES)}"
        )
    if config.get("quantization_config") is not None:
        raise RequestError(
            f"model {label}: is quantized already; give its original checkpoint "
            "(nowag-exp export FOLDER --to dense makes an ordinary one of a folder that checkpoint.save=true wrote)"
        )


def linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """``(d_out, d_in)`` of each linear of a block, from a checked ``config.json``."""
    return Architecture.of(config).linears()


class CausalLM:
    """A Llama in memory.

    Args:
        module: the transformers model, in eval mode.
        checkpoint: where its weights came from; compressed weights are replaced by these in :meth:`restore`.
    """

    def __init__(self, module: Any, checkpoint: Checkpoint) -> None:
        self.module = module
        self.checkpoint = checkpoint
        self._changed: set[str] = set()
        known = {linear for site in SITES for linear in site.linears}
        for index, block in enumerate(self.blocks):
            found = {name for name, module in block.named_modules() if isinstance(module, nn.Linear)}
            if found != known:
                raise RequestError(f"block {index} has linears {sorted(found ^ known)} that no input site names")

    @classmethod
    def load(cls, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> "CausalLM":
        """Load through transformers; no code from the checkpoint is run.

        Raises:
            RequestError: if a weight is missing or has the wrong shape.
        """
        from transformers import AutoModelForCausalLM

        folder = checkpoint.folder
        try:
            with quiet_libraries():
                module, report = AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=dtype,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    # eager attention takes a missing mask for "no mask at all"; sdpa takes it for causal.
                    attn_implementation="sdpa",
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RequestError(f"{folder}: cannot be loaded ({reason}); download the model again") from error
        wrong = [name for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") for name in report[kind]]
        if wrong:
            raise RequestError(
                f"{folder}: {len(wrong)} tensors do not match config.json, such as {wrong[0]}; download the model again"
            )
        module.to(device).eval().requires_grad_(False)
        module.config.use_cache = False
        return cls(module, checkpoint)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.module.dtype

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder layers, first to last."""
        return list(self.module.model.layers)

    def linears(self, block: int, site: Site) -> dict[str, nn.Linear]:
        """The linears of a site by full name, ``model.layers.3.mlp.up_proj``."""
        return {f"model.layers.{block}.{path}": self.blocks[block].get_submodule(path) for path in site.linears}  # type: ignore[misc]

    def embed(self, ids: Int64[Tensor, "batch context"]) -> Float[Tensor, "batch context hidden"]:
        """Input of the first block."""
        return self.module.model.embed_tokens(ids.to(self.device))

    def run_block(
        self, index: int, hidden: Float[Tensor, "batch context hidden"]
    ) -> Float[Tensor, "batch context hidden"]:
        """Output of one block on whole windows that start at position 0, with causal attention."""
        return self._run(self.blocks[index], hidden)

    def _run(
        self, block: nn.Module, hidden: Float[Tensor, "batch context hidden"]
    ) -> Float[Tensor, "batch context hidden"]:
        from transformers.masking_utils import create_causal_mask

        body = self.module.model
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        mask = create_causal_mask(
            config=body.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None, position_ids=positions
        )
        return block(
            hidden,
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=body.rotary_emb(hidden, position_ids=positions),
        )

    def last_hidden(
        self,
        ids: Int64[Tensor, "batch context"],
        positions: Int64[Tensor, "batch context"] | None = None,
        mask: Bool[Tensor, "batch context context"] | None = None,
    ) -> Float[Tensor, "batch context hidden"]:
        """Input of the language-model head: all blocks and the final norm.

        Args:
            ids: token ids.
            positions: of each token in its text; ``None`` for 0, 1, 2, ...
            mask: row ``i`` is true at the tokens that token ``i`` sees; ``None`` for itself and all before it.
        """
        seen = None if mask is None else mask[:, None].to(self.device)  # The same for all heads.
        places = None if positions is None else positions.to(self.device)
        body = self.module.model
        return body(ids.to(self.device), attention_mask=seen, position_ids=places, use_cache=False).last_hidden_state

    def last_hidden_in(
        self, dtype: torch.dtype, ids: Int64[Tensor, "batch context"]
    ) -> Float[Tensor, "batch context hidden"]:
        """As :meth:`last_hidden` in another precision of weights and activations; casts a copy of a block at a time."""
        hidden = self.embed(ids).to(dtype)
        for block in self.blocks:
            hidden = self._run(copy.deepcopy(block).to(dtype), hidden)
        return copy.deepcopy(self.module.model.norm).to(dtype)(hidden)

    def logits(self, hidden: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocabulary"]:
        """The language-model head, in the precision of ``hidden``."""
        return nn.functional.linear(hidden, self.module.lm_head.weight.to(hidden.dtype))

    def other_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter that no site names: embeddings, norms and the head; a tied one once."""
        linears = {name for index in range(len(self.blocks)) for site in SITES for name in self.linears(index, site)}
        for name, parameter in self.module.named_parameters():
            if name.removesuffix(".weight") not in linears:
                yield name, parameter.data

    def replace_weight(self, linear: str, values: Float[Tensor, "d_out d_in"]) -> None:
        """Put other values into a linear, until :meth:`restore`."""
        self._changed.add(linear)
        self.module.get_submodule(linear).weight.data.copy_(values)

    def restore(self) -> None:
        """Read the original weights of the changed linears back from the checkpoint."""
        for name, tensor in self.checkpoint.read(f"{linear}.weight" for linear in sorted(self._changed)):
            self.module.get_parameter(name).data.copy_(tensor)
        self._changed.clear()
