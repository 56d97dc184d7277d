"""A Llama as blocks: embed, and run one block at a time."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from torch import Tensor, nn

from nowag_exp.allocator import free_cached, is_out_of_memory
from nowag_exp.errors import NowagError, RequestError
from nowag_exp.formats.llama import described
from nowag_exp.models.activations import Activations, Placement, short_of
from nowag_exp.models.batch import Batch, sees
from nowag_exp.models.checkpoint import Checkpoint
from nowag_exp.models.sites import PATHS, SITES, Site
from nowag_exp.models.stream import BlockStream
from nowag_exp.progress import Stage
from nowag_exp.quiet import quiet_libraries

# eager attention takes a missing mask for "no mask at all"; sdpa takes it for causal.
OPTIONS = {"attn_implementation": "sdpa"}


class HeardAll(Exception):  # noqa: N818 (it is no error)
    """Ends the run of a block whose output nobody wants, once the last input site was reached."""


@runtime_checkable
class Listener(Protocol):
    """Hears the inputs of a block while it runs, and is told whether the run counts.

    It may raise :class:`HeardAll`; the output is then of no use.
    """

    def add(self) -> None:
        """It was run to its end: add up what was heard."""

    def forget(self) -> None:
        """It was not, for lack of memory, and will be run again."""


class CausalLM:
    """A Llama, loaded or streamed from its checkpoint a block at a time.

    Args:
        module: the transformers model, in eval mode; of a streamed one the skeleton.
        checkpoint: where its weights came from; compressed weights are replaced by these in :meth:`restore`.
        stream: gives the blocks of a model that is not loaded.

    Attributes:
        placement: where hidden states wait between two blocks; ``auto``: in main memory, or in a file if it is short.
        scratch: folder of their file, if they wait in one.
    """

    def __init__(self, module: Any, checkpoint: Checkpoint, stream: BlockStream | None = None) -> None:
        self.module = module
        self.checkpoint = checkpoint
        self.stream = stream
        self.placement: Placement | Literal["auto"] = "auto"
        self.scratch: Path | None = None
        self.on_halving: Callable[[int, int], None] = lambda too_many, taken: None
        self._changed: set[str] = set()
        self._most_tokens: int | None = None
        self._too_many: int | None = None
        known = set(PATHS)
        for index, block in enumerate(self.module.model.layers):
            found = {name for name, module in block.named_modules() if isinstance(module, nn.Linear)}
            if found != known:
                raise RequestError(f"block {index} has linears {sorted(found ^ known)} that no input site names")

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: torch.device,
        gpus: Mapping[int, int] | None = None,
    ) -> "CausalLM":
        """Load through transformers, what :class:`Checkpoint` reads and nothing else; no code from it is run.

        Args:
            checkpoint: has the weights.
            dtype: to compute in.
            device: where it computes.
            gpus: bytes that may be taken of each GPU, to spread the blocks over them by accelerate's device map.

        Raises:
            RequestError: if a weight is missing or has the wrong shape.
        """
        folder = checkpoint.folder
        options: dict[str, Any] = dict(OPTIONS)
        try:
            skeleton = _skeleton(checkpoint, dtype)
            if device.type == "cuda":  # Tensor by tensor to where it belongs, never whole in main memory.
                options["device_map"] = {"": device} if gpus is None else device_map(skeleton, gpus)
            # Not by the folder's name: transformers has rules of its own for which files of a folder are the weights.
            with quiet_libraries(), checkpoint.slices() as slices:
                module, report = type(skeleton).from_pretrained(
                    None,
                    config=skeleton.config,
                    state_dict=slices,
                    dtype=dtype,
                    output_loading_info=True,
                    **options,
                )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RequestError(f"{folder}: cannot be loaded ({reason}); download the model again") from error
        wrong = [name for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") for name in report[kind]]
        if wrong:
            raise RequestError(
                f"{folder}: {len(wrong)} tensors do not match config.json, such as {wrong[0]}; download the model again"
            )
        if device.type != "cuda":
            module.to(device)
        module.eval().requires_grad_(False)
        module.config.use_cache = False
        return cls(module, checkpoint)

    @classmethod
    def streamed(cls, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> "CausalLM":
        """Read nothing but the last norm now, and the blocks whenever they are needed.

        Raises:
            RequestError: if a weight is missing.
        """
        module = _skeleton(checkpoint, dtype)
        module.model.rotary_emb.to(device)
        module.eval().requires_grad_(False)
        module.config.use_cache = False
        return cls(module, checkpoint, BlockStream(checkpoint, module, device))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.module.device if self.stream is None else self.stream.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.module.dtype

    @property
    def n_blocks(self) -> int:
        """Decoder layers."""
        return len(self.module.model.layers)

    @property
    def block_bytes(self) -> int:
        """Of the weights of one decoder layer."""
        return sum(parameter.nbytes for parameter in self.module.model.layers[0].parameters())

    def block(self, index: int) -> nn.Module:
        """A decoder layer, with its weights; of a streamed model the one that was asked for last alone has them."""
        return self.module.model.layers[index] if self.stream is None else self.stream.hold(index)

    def linears(self, block: int, site: Site) -> dict[str, nn.Linear]:
        """The linears of a site by full name, with their weights."""
        module = self.block(block)
        found = (module.get_submodule(path) for path in site.linears)
        return dict(zip(site.names(block), found, strict=True))  # type: ignore[arg-type]

    def weight(self, block: int, linear: str) -> Float[Tensor, "d_out d_in"]:
        """The weight of a linear, by its full name."""
        self.block(block)
        return self.module.get_submodule(linear).weight.data

    def embed(self, ids: Int64[Tensor, "batch context"]) -> Float[Tensor, "batch context hidden"]:
        """Input of the first block."""
        return self.module.model.embed_tokens(ids.to(self.device)) if self.stream is None else self.stream.embed(ids)

    def waiting(
        self, hidden: Iterable[Float[Tensor, "_ _ hidden"]], n_tokens: int, dtype: torch.dtype | None = None
    ) -> Activations:
        """Hidden states of several batches, of so many tokens together, put where they wait for the next block."""
        n_bytes = n_tokens * self.module.config.hidden_size * (dtype or self.dtype).itemsize
        placement = short_of(n_bytes) if self.placement == "auto" else self.placement
        return Activations(hidden, self.device, placement, self.scratch, n_bytes)

    def run_block(
        self, index: int, hidden: Float[Tensor, "batch context hidden"], listener: Listener | None = None
    ) -> Float[Tensor, "batch context hidden"]:
        """Output of one block on whole windows that start at position 0, with causal attention.

        Args:
            index: of the block.
            hidden: its input.
            listener: hears what reaches the input sites.

        Raises:
            NowagError: if memory does not suffice for a single window.
        """
        return self._run(self.block(index), hidden, None, listener)

    @torch.inference_mode()
    def last_hidden(
        self, batches: Sequence[Batch], dtype: torch.dtype | None = None, stage: Stage | None = None
    ) -> Iterator[Float[Tensor, "rows context hidden"]]:
        """Input of the language-model head, batch by batch: all blocks and the final norm.

        A loaded model takes one batch after the other through all blocks, a streamed one all of them through one block
        after the other; the results are the same.

        Args:
            batches: of any shapes.
            dtype: another precision of weights and activations; a copy of a block at a time is cast.
            stage: shows how far a streamed model is.
        """
        together = self.stream is not None or dtype is not None
        if not batches:
            return
        for group in [batches] if together else [[batch] for batch in batches]:
            embedded = (self.embed(batch.ids).to(dtype or self.dtype) for batch in group)
            if together:
                waiting = self.waiting(embedded, sum(batch.ids.numel() for batch in group), dtype)
            else:
                waiting = Activations(embedded, self.device, "device")  # A single batch is in use all the time.
            with stage("blocks", self.n_blocks) if stage and self.stream else nullcontext() as tick:
                for index in range(self.n_blocks):
                    block = self.block(index)
                    if dtype is not None:
                        block = copy.deepcopy(block).to(dtype)
                    for number, batch in enumerate(group):
                        waiting[number] = self._run(block, waiting[number], batch)
                    if tick is not None:
                        tick()
            norm = self.module.model.norm if dtype is None else copy.deepcopy(self.module.model.norm).to(dtype)
            for number in range(len(group)):
                yield norm(waiting[number])

    @property
    def head(self) -> Float[Tensor, "vocabulary hidden"]:
        """Weights of the language-model head, as they are now."""
        head: Tensor = self.module.lm_head.weight if self.stream is None else self.stream.head()
        return head

    def logits(self, hidden: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocabulary"]:
        """The language-model head, in the precision of ``hidden``."""
        head = self.head
        # Of a model that is spread over GPUs the head need not be where it computes otherwise.
        return nn.functional.linear(hidden.to(head.device), head.to(hidden.dtype)).to(hidden.device)

    def other_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter that no site names: embeddings, norms and the head; a tied one once.

        Of a streamed model they have their shape and type alone; :meth:`values` reads one.
        """
        linears = {name for index in range(self.n_blocks) for site in SITES for name in site.names(index)}
        for name, parameter in self.module.named_parameters():
            if name.removesuffix(".weight") not in linears:
                yield name, parameter.data

    def values(self, name: str) -> Tensor:
        """A parameter that no site names."""
        return self.module.get_parameter(name).data if self.stream is None else self.stream.tensor(name)

    def why_not_finite(self) -> str:
        """Why what it computes is NaN or infinite, and what to do: names the first parameter that is, if any is."""
        blocks = (
            (f"model.layers.{index}.{name}", parameter.data)
            for index in range(self.n_blocks)
            for name, parameter in self.block(index).named_parameters()
        )
        others = ((name, self.values(name)) for name, _ in self.other_parameters() if ".layers." not in name)
        wider = "use model.dtype=bfloat16 or float32" if self.dtype == torch.float16 else ""
        for name, values in chain(blocks, others):
            if bad := int((~torch.isfinite(values)).sum()):
                # float16 holds less than the types in which models are published.
                remedy = f"{wider}, and if they are still, " if wider else ""
                return f"{name}: {bad} of {values.numel()} values are NaN or infinite; {remedy}download the model again"
        remedy = wider or "check the checkpoint"
        return f"all weights are finite, but activations left the range of {str(self.dtype)[6:]}; {remedy}"

    def replace_weight(self, linear: str, values: Float[Tensor, "d_out d_in"]) -> None:
        """Put other values into a linear, until :meth:`restore`; of a streamed model while its block is held."""
        self._changed.add(linear)
        weight = self.module.get_submodule(linear).weight.data
        if not weight.is_meta:
            weight.copy_(values)

    def restore(self) -> None:
        """Go back to the original weights, read from the checkpoint, and to batches as large as asked for."""
        self._most_tokens = self._too_many = None
        if self.stream is not None:
            self.stream.restore()
        else:
            for name, tensor in self.checkpoint.read(f"{linear}.weight" for linear in sorted(self._changed)):
                self.module.get_parameter(name).data.copy_(tensor)
        self._changed.clear()

    def _run(
        self,
        block: nn.Module,
        hidden: Float[Tensor, "batch context hidden"],
        batch: Batch | None,
        listener: Listener | None = None,
    ) -> Float[Tensor, "batch context hidden"]:
        """Run a block on as many rows at once as memory allows."""
        rows, context = hidden.shape[:2]
        outputs: list[Tensor] = []
        start = 0
        while start < rows:
            at_once = rows if self._most_tokens is None else max(1, self._most_tokens // context)
            part = slice(start, start + at_once)
            try:
                try:
                    output = self._forward(block, hidden[part], batch, part)
                except HeardAll:
                    output = hidden[part]
                if listener is not None:
                    listener.add()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if min(at_once, rows - start) == 1:
                    raise NowagError(self._too_long(context)) from error
                self._too_many = self._too_many or min(at_once, rows - start) * context
                self._most_tokens = min(at_once, rows - start) // 2 * context
                self.on_halving(self._too_many, self._most_tokens)
                output = None
            if output is None:  # Only here, where the failed attempt has let go of its tensors.
                if listener is not None:
                    listener.forget()
                free_cached()
                continue
            outputs.append(output)
            start += at_once
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _forward(
        self, block: nn.Module, hidden: Float[Tensor, "batch context hidden"], batch: Batch | None, part: slice
    ) -> Float[Tensor, "batch context hidden"]:
        from transformers.masking_utils import create_causal_mask

        body = self.module.model
        positions, seen = torch.arange(hidden.shape[1], device=hidden.device)[None], None
        if batch is not None and batch.positions is not None:
            positions = batch.positions[part].to(hidden.device)
        if batch is not None and batch.branches is not None:
            seen = sees(batch.branches[part].to(hidden.device))[:, None]  # The same for all heads.
        mask = create_causal_mask(
            config=body.config, inputs_embeds=hidden, attention_mask=seen, past_key_values=None, position_ids=positions
        )
        return block(
            hidden,
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=body.rotary_emb(hidden, position_ids=positions),
        )

    def _too_long(self, context: int) -> str:
        ways = ["use a larger GPU", "runtime.device=cpu"] if self.device.type == "cuda" else ["free memory"]
        ways += [] if self.stream else ["runtime.offload=always, which holds one block at a time"]
        return (
            f"{context} tokens, a single window or item, do not fit into the memory of {self.device} beside the model; "
            f"{', or '.join(ways)}"
        )


def device_map(module: nn.Module, room: Mapping[Any, int]) -> dict[str, Any]:
    """Where accelerate puts the parts of a model, no block cut in two.

    Args:
        module: a transformers model, or its skeleton.
        room: bytes that may be taken of each device.

    Raises:
        NowagError: if it does not fit.
    """
    from accelerate import infer_auto_device_map

    found: dict[str, Any] = infer_auto_device_map(
        module, max_memory=dict(room), no_split_module_classes=["LlamaDecoderLayer"]
    )
    if outside := [name for name, device in found.items() if device == "disk"]:
        raise NowagError(
            f"{outside[0]}: does not fit into what is free of {len(room)} GPUs beside the other parts of the model; "
            "set runtime.offload=always, which holds one block at a time"
        )
    return found


def _skeleton(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The model on the meta device, but for the angles of the rotary embedding, which are computed, not read."""
    module: Any = described(checkpoint.folder, dtype=dtype, **OPTIONS)
    module.model.rotary_emb = type(module.model.rotary_emb)(module.config)
    return module
