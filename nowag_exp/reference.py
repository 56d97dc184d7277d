"""What the dense model gives on the evaluation's tokens, made once for all experiments that are held against it."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nowag_exp.errors import NowagError
from nowag_exp.evaluation import Metric, ZeroShot, last_states
from nowag_exp.evaluation.zero_shot import SuiteOutcome
from nowag_exp.ledger import Ledger
from nowag_exp.models import CausalLM
from nowag_exp.progress import Stage, Tick
from nowag_exp.records.items import from_parquet, to_parquet
from nowag_exp.records.store import Store, Stored, content_key

VERSION = 2
"""Raised when the same model and tokens would give other states or answers, or entries hold something else."""

ENTRY_BYTES = 2**26
"""States of one store entry; at least one window."""


class DenseStates:
    """Input of the dense model's head at every predicting position, in the model's dtype.

    The logits follow from it, since the model at hand has the same head: for Llama-2-7B on wikitext2 2.8 GB, exact,
    where the 256 largest of 32000 logits would take 0.5 GB and cut off the rest.

    Args:
        store: keeps them, some windows an entry.
        model: identity of the model.
        tokens: sha256 of the windows.
        ledger: damaged entries go there.
    """

    kind = "dense_states"

    def __init__(self, store: Store, model: dict[str, Any], tokens: str, ledger: Ledger) -> None:
        self.store, self.ledger = store, ledger
        self._inputs = {"version": VERSION, "model": model, "tokens": tokens}
        self._head = ""

    def prepare(
        self,
        model: CausalLM,
        ids: Int64[Tensor, "windows context"],
        batch_size: int,
        tick: Tick,
        stage: Stage | None = None,
    ) -> list[float]:
        """Compute what is not kept; the model must be the dense one, and its head is remembered.

        Every entry is verified now: after the compression the dense model is no more.

        Returns:
            Of each window that was kept, the seconds that it took when it was computed.
        """
        self._head = _sha256(model.head)
        kept: list[float] = []
        missing: dict[int, Tensor] = {}
        with self.store.lock(self.kind, content_key(self._inputs)):
            for index, windows in enumerate(self._split(model, ids)):
                stored = self.store.load(self.kind, self._key(index), self.ledger)
                if stored is None:
                    missing[index] = windows
                    continue
                kept += [stored.notes["seconds"] / len(windows)] * len(windows)
                for _ in windows:
                    tick(known=True)
            # One pass for all of them: a streamed model is read once. Batches end where entries do, so that the states
            # do not depend on which entries are missing.
            batches = [batch for windows in missing.values() for batch in windows.split(batch_size)]
            states = last_states(model, batches, stage=stage)
            for index, windows in missing.items():
                started = time.perf_counter()
                of_entry = torch.stack([state.cpu() for state in islice(states, len(windows))])
                notes = {"seconds": time.perf_counter() - started}
                self.store.save(self.kind, self._key(index), Stored({"states": of_entry.contiguous()}, notes))
                for _ in windows:
                    tick()
        return kept

    def windows(
        self, model: CausalLM, ids: Int64[Tensor, "windows context"]
    ) -> Iterator[Float[Tensor, "predicting hidden"]]:
        """States of each window in turn, for a model that turns them into logits with the dense model's head.

        Raises:
            NowagError: if an entry went since :meth:`prepare`, or the head is another than it was then.
        """
        if _sha256(model.head) != self._head:
            raise NowagError(
                "lm_head: is not what it was in the dense model, whose logits are made with it; set "
                "evaluation.fidelity=false to measure a model with another head"
            )
        for index in range(len(self._split(model, ids))):
            key = self._key(index)
            stored = self.store.load(self.kind, key, self.ledger)
            if stored is None:
                raise NowagError(
                    f"{self.store.path(self.kind, key)}: was damaged or removed while it was in use; "
                    "run the same command again"
                )
            yield from stored.tensors["states"]

    def has(self, n_windows: int, context_length: int, state_bytes: int) -> bool:
        """Whether there is an entry for each of so many windows; what is in them is not looked at.

        Args:
            n_windows: of the text.
            context_length: tokens of a window.
            state_bytes: size of the state of one token.
        """
        n_entries = -(-n_windows // _windows_an_entry(context_length, state_bytes))
        return all(self.store.path(self.kind, self._key(index)).exists() for index in range(n_entries))

    def _split(self, model: CausalLM, ids: Int64[Tensor, "windows context"]) -> tuple[Tensor, ...]:
        return ids.split(_windows_an_entry(ids.shape[1], model.module.config.hidden_size * model.dtype.itemsize))

    def _key(self, index: int) -> str:
        return content_key({**self._inputs, "entry": index})


def _windows_an_entry(context_length: int, state_bytes: int) -> int:
    return max(1, ENTRY_BYTES // (context_length * state_bytes))


def _sha256(weights: Float[Tensor, "vocabulary hidden"]) -> str:
    whole = weights.detach().cpu().contiguous()
    return hashlib.sha256(whole.view(torch.uint8).numpy().data).hexdigest()  # numpy knows no bfloat16


class DenseOutcomes:
    """What the dense model answers on zero-shot suites.

    Args:
        store: keeps them, an entry a suite.
        model: identity of the model.
        ledger: damaged entries go there.
    """

    kind = "dense_items"

    def __init__(self, store: Store, model: dict[str, Any], ledger: Ledger) -> None:
        self.store, self.model, self.ledger = store, model, ledger

    def get(
        self, suites: Sequence[ZeroShot], score: Callable[[Sequence[ZeroShot]], list[SuiteOutcome]]
    ) -> dict[str, SuiteOutcome]:
        """Outcomes by config key; those that are not kept are computed together, with the dense model.

        Args:
            suites: to look up.
            score: answers the suites that are missing.
        """
        with self.store.lock(self.kind, content_key(self.model)):
            found = {suite.key: self._load(suite) for suite in suites}
            missing = [suite for suite in suites if found[suite.key] is None]
            for suite, outcome in zip(missing, score(missing) if missing else [], strict=True):
                self._save(suite, outcome)
                found[suite.key] = outcome
        return {key: outcome for key, outcome in found.items() if outcome is not None}

    def has(self, suite: ZeroShot) -> bool:
        """Whether there is an entry for a suite; what is in it is not looked at."""
        return self.store.path(self.kind, self._key(suite)).exists()

    def _load(self, suite: ZeroShot) -> SuiteOutcome | None:
        stored = self.store.load(self.kind, self._key(suite), self.ledger)
        if stored is None:
            return None
        metrics = [Metric(**metric) for metric in stored.notes["metrics"]]
        items = from_parquet(stored.tensors["items"].numpy().tobytes())
        return SuiteOutcome(suite.name, metrics, items, stored.notes["token_hash"])

    def _save(self, suite: ZeroShot, outcome: SuiteOutcome) -> None:
        items = torch.frombuffer(bytearray(to_parquet(outcome.items)), dtype=torch.uint8)
        notes = {"metrics": [asdict(metric) for metric in outcome.metrics], "token_hash": outcome.token_hash}
        self.store.save(self.kind, self._key(suite), Stored({"items": items}, notes))

    def _key(self, suite: ZeroShot) -> str:
        return content_key({"version": VERSION, "model": self.model, "name": suite.name, "suite": suite.identity()})
