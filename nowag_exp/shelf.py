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
from nowag_exp.models import SITES, CausalLM
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
                self.store.save("statistics", self._key(needs), Stored(to_tensors(diagonals), notes))
                # Second moments have the diagonals in them; those kept already cost what their own pass did.
                if self.store.load("statistics", self._key(Needs.DIAGONAL), self.ledger) is None:
                    self.store.save("statistics", self._key(Needs.DIAGONAL), Stored(to_tensors(diagonals), notes))
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
        stored = self.store.load("walks", key, self.ledger, mapped=True)  # Memory may be too short for its activations.
        if stored is not None and self._has_second_moments(needs, stored.notes["index"]):
            passing = Walk(model, unpack_walk(stored.tensors), ids.numel(), "dense", needs, stored.notes["index"])
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
        # All are verified before any block is compressed: afterwards the dense model is no more.
        if stored is None or not self._has_second_moments(needs, self.n_blocks):
            return None
        return StageCost(**stored.notes, reused=True)

    def has(self, needs: Needs) -> bool:
        """Whether the statistics of all blocks are there; they are not read, so one may turn out to be damaged."""
        blocks = range(self.n_blocks if needs is Needs.HESSIAN else 0)
        paths = [self.store.path("second_moments", self._key(needs, index)) for index in blocks]
        return all(path.exists() for path in [self.store.path("statistics", self._key(needs)), *paths])

    def has_factors(self, name: str) -> bool:
        """Whether those of this name are there for every site of all blocks, unread like the statistics."""
        return all(self._factors(index, site.name).has(name) for index in range(self.n_blocks) for site in SITES)

    def diagonals(self) -> list[BlockStatistics]:
        """Kept diagonals of all blocks."""
        return from_tensors(self._load("statistics", self._key(Needs.DIAGONAL)).tensors, self.n_blocks)

    def hessian(self, index: int) -> BlockStatistics:
        """Kept second moments of one block, with the factors made of them."""
        (block,) = from_tensors(self._load("second_moments", self._key(Needs.HESSIAN, index)).tensors, 1)
        return {site: replace(seen, factors=self._factors(index, site)) for site, seen in block.items()}

    def _factors(self, index: int, site: str) -> "StoredFactors":
        return StoredFactors(self.store, {"statistics": self._key(Needs.HESSIAN, index), "site": site}, self.ledger)

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

    def has(self, name: str) -> bool:
        """Whether a factor is there; it is not read, so it may turn out to be damaged."""
        return self.store.path("factors", self._key(name)).exists()

    def get(self, name: str) -> Tensor | None:
        """A factor, if it has been made before."""
        stored = self.store.load("factors", self._key(name), self.ledger)
        return None if stored is None else stored.tensors["factor"]

    def __setitem__(self, name: str, factor: Tensor) -> None:
        self.store.save("factors", self._key(name), Stored({"factor": factor.cpu().contiguous()}, {}))

    def _key(self, name: str) -> str:
        return content_key({"version": FACTOR_VERSION, **self.site, "factor": name})
