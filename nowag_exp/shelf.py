"""Statistics of the dense model, made once for all experiments that ask for the same, and the factors made of them."""

import time
from dataclasses import replace
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from nowag_exp.calibration import Walk, walk
from nowag_exp.calibration.statistics import VERSION, BlockStatistics, from_tensors, to_tensors
from nowag_exp.errors import NowagError
from nowag_exp.ledger import Ledger
from nowag_exp.methods import Needs
from nowag_exp.models import CausalLM
from nowag_exp.progress import Reporter, Tick
from nowag_exp.records.provenance import CostMeter
from nowag_exp.records.record import StageCost
from nowag_exp.records.store import Store, Stored, content_key
from nowag_exp.unfinished import Clock, pack_walk, unpack_walk

FACTOR_VERSION = 2
"""Raised when the same statistics would give another factor."""


class StatisticsShelf:
    """Where the dense statistics of one model and one set of tokens are kept.

    Diagonals are one entry. Second moments are an entry a block, and each factor of one an entry of its own: for
    Llama-2-7B 0.7 GB a block and as much again for factors.

    Args:
        store: keeps them.
        model: identity of the model.
        tokens: sha256 of the calibration tokens.
        n_blocks: of the model.
        ledger: damaged entries go there.
    """

    def __init__(self, store: Store, model: dict[str, Any], tokens: str, n_blocks: int, ledger: Ledger) -> None:
        self.store, self.n_blocks, self.ledger = store, n_blocks, ledger
        self._inputs = {"version": VERSION, "model": model, "tokens": tokens}

    def dense(
        self,
        model: CausalLM,
        ids: Int64[Tensor, "n context"],
        batch_size: int,
        needs: Needs,
        save_every: float,
        meter: CostMeter,
        reporter: Reporter,
    ) -> "StoredStatistics":
        """Statistics of each block in turn; computed in one pass before the first is given, unless they are kept.

        An interrupted pass goes on where its activations were last kept, at most about ``save_every`` seconds back.
        """
        with self.store.lock("statistics", self._key(needs)):
            cost = self._kept(needs)
            if cost is None:
                with meter.stage("calibration"), reporter.stage("calibration: blocks", self.n_blocks) as tick:
                    diagonals = self._collect(model, ids, batch_size, needs, save_every, meter, tick)
                cost = meter.stages["calibration"]
                notes = {name: getattr(cost, name) for name in ("seconds", "peak_bytes", "peak_gpu_bytes")}
                for kind in {needs, Needs.DIAGONAL}:
                    self.store.save("statistics", self._key(kind), Stored(to_tensors(diagonals), notes))
            else:
                meter.stages["calibration"] = cost
            self.store.remove("walks", self._key(needs))
        return StoredStatistics(self, needs)

    def _collect(
        self,
        model: CausalLM,
        ids: Int64[Tensor, "n context"],
        batch_size: int,
        needs: Needs,
        save_every: float,
        meter: CostMeter,
        tick: Tick,
    ) -> list[BlockStatistics]:
        """The pass over the blocks; second moments go to the store on the way."""
        key, started = self._key(needs), time.perf_counter()
        diagonals: list[BlockStatistics] = []
        earlier = 0.0
        passing = None
        stored = self.store.load("walks", key, self.ledger)
        if stored is not None and self._has_second_moments(needs, stored.notes["index"]):
            passing = Walk(model, unpack_walk(stored.tensors), "dense", needs, stored.notes["index"])
            diagonals, earlier = from_tensors(stored.tensors, passing.index), stored.notes["seconds"]
            meter.take_over("calibration", earlier)
            for _ in diagonals:
                tick(known=True)
        passing = passing or walk(model, ids, batch_size, "dense", needs)
        clock = Clock(save_every)
        for block in passing:
            if needs is Needs.HESSIAN:
                moments = Stored(to_tensors([block]), {})
                self.store.save("second_moments", self._key(needs, len(diagonals)), moments)
            diagonals.append({site: replace(seen, second_moment=None) for site, seen in block.items()})
            if len(diagonals) < self.n_blocks and clock.is_due():
                notes = {"index": passing.index, "seconds": earlier + time.perf_counter() - started}
                self.store.save("walks", key, Stored({**pack_walk(passing), **to_tensors(diagonals)}, notes))
            tick()
        return diagonals

    def _has_second_moments(self, needs: Needs, n_blocks: int) -> bool:
        """Whether those of the first blocks are kept whole, if they are needed."""
        return needs is not Needs.HESSIAN or all(
            self.store.load("second_moments", self._key(needs, index), self.ledger) for index in range(n_blocks)
        )

    def _kept(self, needs: Needs) -> StageCost | None:
        """What the statistics cost when they were computed, if all of them are there and undamaged."""
        stored = self.store.load("statistics", self._key(needs), self.ledger)
        if stored is None:
            return None
        if needs is Needs.HESSIAN:
            for index in range(self.n_blocks):
                # Verified before any block is compressed: afterwards the dense model is no more.
                if self.store.load("second_moments", self._key(needs, index), self.ledger) is None:
                    return None
        return StageCost(**stored.notes, reused=True)

    def diagonals(self) -> list[BlockStatistics]:
        """Kept diagonals of all blocks."""
        return from_tensors(self._load("statistics", self._key(Needs.DIAGONAL)).tensors, self.n_blocks)

    def hessian(self, index: int) -> BlockStatistics:
        """Kept second moments of one block, with the factors made of them."""
        key = self._key(Needs.HESSIAN, index)
        (block,) = from_tensors(self._load("second_moments", key).tensors, 1)
        return {
            site: replace(seen, factors=StoredFactors(self.store, {"statistics": key, "site": site}, self.ledger))
            for site, seen in block.items()
        }

    def _load(self, kind: str, key: str) -> Stored:
        stored = self.store.load(kind, key, self.ledger)
        if stored is None:
            raise NowagError(
                f"{self.store.path(kind, key)}: was damaged or removed while it was in use; run the same command again"
            )
        return stored

    def _key(self, needs: Needs, block: int | None = None) -> str:
        return content_key({**self._inputs, "needs": needs.value, **({} if block is None else {"block": block})})


class StoredStatistics:
    """Kept statistics of the blocks; those of a Hessian are read when their block is reached."""

    def __init__(self, shelf: StatisticsShelf, needs: Needs) -> None:
        self.shelf = shelf
        self._diagonals = shelf.diagonals() if needs is not Needs.HESSIAN else None

    def block(self, index: int) -> BlockStatistics:
        """Of one block."""
        return self.shelf.hessian(index) if self._diagonals is None else self._diagonals[index]

    def skip(self, index: int) -> None:
        """Any block can be had at any time."""


class StoredFactors:
    """Factors of one site's Hessian, by name, in the store.

    Args:
        store: keeps them.
        site: identity of the statistics they are made of.
        ledger: damaged entries go there.
    """

    def __init__(self, store: Store, site: dict[str, str], ledger: Ledger) -> None:
        self.store, self.site, self.ledger = store, site, ledger

    def get(self, name: str) -> Tensor | None:
        """A factor, if it has been made before."""
        stored = self.store.load("factors", self._key(name), self.ledger)
        return None if stored is None else stored.tensors["factor"]

    def __setitem__(self, name: str, factor: Tensor) -> None:
        self.store.save("factors", self._key(name), Stored({"factor": factor.cpu().contiguous()}, {}))

    def _key(self, name: str) -> str:
        return content_key({"version": FACTOR_VERSION, **self.site, "factor": name})
