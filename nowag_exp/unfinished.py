"""What an interrupted run leaves in the store, so that the next one goes on where it stopped."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from nowag_exp import interrupt
from nowag_exp.calibration.walk import CompressedBlock, Statistics, Walk, is_dense
from nowag_exp.errors import NowagError
from nowag_exp.evaluation import Metric
from nowag_exp.formats import FORMATS, CompressedWeight
from nowag_exp.ledger import PASSING, Irregularity, Kind, Ledger
from nowag_exp.records.provenance import CostMeter
from nowag_exp.records.store import Store, Stored

ACTIVATIONS = "activations"


class Clock:
    """Says when enough work was done since the last time that it is worth keeping.

    Args:
        seconds: of work that may be lost.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time, or somebody asked to stop; if so, time starts anew."""
        if time.monotonic() - self._since < self.seconds and not interrupt.requested():
            return False
        self._since = time.monotonic()
        return True


def pack_walk(passing: Walk) -> dict[str, Tensor]:
    """The activations of a walk that stands before a block, for the store."""
    passing.settle()
    return {f"{ACTIVATIONS}.{number}": batch.contiguous() for number, batch in enumerate(passing.hidden.tensors())}


def unpack_walk(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Undo :func:`pack_walk`."""
    n_batches = sum(name.startswith(f"{ACTIVATIONS}.") for name in tensors)
    return [tensors[f"{ACTIVATIONS}.{number}"] for number in range(n_batches)]


class RunLedger(Ledger):
    """The ledger of one experiment: an interruption loses no entry that the next run would not make again.

    Args:
        store: keeps those.
        fingerprint: of the experiment; the caller holds the lock of its record.
    """

    def __init__(self, store: Store, fingerprint: str) -> None:
        super().__init__()
        self._store, self._kind = store, _kind(fingerprint)
        self._passing: dict[tuple[str, str], Irregularity] = {}
        kept = store.load(self._kind, "ledger", self)
        for entry in kept.notes["irregularities"] if kept else []:
            self._passing[entry["kind"], entry["where"]] = Irregularity(**entry)

    def add(self, kind: Kind, where: str, detail: str, count: int = 1) -> None:
        """Write one down; of those that are kept, the last of a kind at a place."""
        if kind not in PASSING:
            super().add(kind, where, detail, count)
            return
        self._passing[kind, where] = Irregularity(kind, where, detail, count)
        notes = {"irregularities": [asdict(entry) for entry in self._passing.values()]}
        self._store.save(self._kind, "ledger", Stored({}, notes))

    def all(self) -> list[Irregularity]:
        """Those that are kept come last, so that the order does not depend on when they were met."""
        return [*self.entries, *self._passing.values()]


class Unfinished:
    """Compressed blocks, activations between two blocks, and metrics of one experiment; gone once it is recorded.

    With ``compressed`` propagation every block is kept, as those after it depend on it, and the activations whenever
    ``save_every`` seconds have passed. Otherwise blocks are independent, and one is kept if it took its share of
    ``save_every``: writing what took no time to compute would cost more than it saves. Of a streamed model every block
    is kept, as it is read back whenever the model passes it.

    Args:
        store: keeps it.
        fingerprint: of the experiment; the caller holds the lock of its record.
        n_blocks: of the model.
        save_every: about how many seconds of work may be lost.
        device: that the model is on.
        streamed: whether the model is.
        meter: of the costs; what was taken over is counted there.
        ledger: damaged entries go there.
    """

    def __init__(
        self,
        store: Store,
        fingerprint: str,
        n_blocks: int,
        save_every: float,
        device: torch.device,
        streamed: bool,
        meter: CostMeter,
        ledger: Ledger,
    ) -> None:
        self.store, self.kind, self.n_blocks = store, _kind(fingerprint), n_blocks
        self.device, self.streamed, self.meter, self.ledger = device, streamed, meter, ledger
        self._clock, self._share = Clock(save_every), save_every / n_blocks

    def has(self, index: int) -> bool:
        """Whether a block was compressed before; what was kept of it may be damaged."""
        return self.store.path(self.kind, self._block(index)).exists()

    def get(self, index: int) -> CompressedBlock | None:
        """A block that was compressed before."""
        stored = self.store.load(self.kind, self._block(index), self.ledger)
        if stored is None:
            return None
        entries = [Irregularity(**entry) for entry in stored.notes["irregularities"]]
        self.meter.take_over("compression", stored.notes["seconds"])
        weights = {name: weight.to(self.device) for name, weight in _weights(stored).items()}
        return CompressedBlock(weights, entries, stored.notes["seconds"])

    def weights(self, index: int) -> dict[str, CompressedWeight]:
        """Those of a block that is kept, in main memory.

        Raises:
            NowagError: if it went since it was.
        """
        # Not made again in this run, as entries of its ledger say: the run fails.
        stored = self.store.load(self.kind, self._block(index), Ledger())
        if stored is None:
            raise NowagError(
                f"{self.store.path(self.kind, self._block(index))}: was damaged or removed while it was in use; "
                "run the same command again"
            )
        return _weights(stored)

    def put(self, index: int, block: CompressedBlock, statistics: Statistics | None) -> None:
        """Keep a block, and what the next one sees, if they are worth it."""
        needed = isinstance(statistics, Walk) or (self.streamed and not is_dense(block.weights))
        if not needed and block.seconds < self._share and not interrupt.requested():
            return
        tensors: dict[str, Tensor] = {}
        weights: list[Any] = []  # A list, for the order: the store sorts keys.
        for name, weight in block.weights.items():
            fields = weight.tensors()
            # Copies: parts of one tensor cannot be written under two names.
            tensors |= {f"{name}.{field}": tensor.to("cpu", copy=True) for field, tensor in fields.items()}
            weights.append([name, weight.kind, weight.layout(), list(fields)])
        notes = {
            "weights": weights,
            "irregularities": [asdict(entry) for entry in block.irregularities],
            "seconds": block.seconds,
        }
        self.store.save(self.kind, self._block(index), Stored(tensors, notes))
        if isinstance(statistics, Walk) and index < self.n_blocks - 1 and self._clock.is_due():
            state = Stored(pack_walk(statistics), {"index": statistics.index})
            self.store.save(self.kind, ACTIVATIONS, state)

    def activations(self) -> tuple[int, list[Tensor]] | None:
        """The block that kept activations stand before, and these; ``None`` if a block before it is not kept whole.

        These blocks are verified here: were one found damaged later, its statistics could not be had any more.
        """
        # Mapped: where they wait is not for this to choose, and memory may be too short for them.
        stored = self.store.load(self.kind, ACTIVATIONS, self.ledger, mapped=True)
        if stored is None:
            return None
        index: int = stored.notes["index"]
        if any(self.store.load(self.kind, self._block(before), self.ledger) is None for before in range(index)):
            return None
        return index, unpack_walk(stored.tensors)

    def metrics(self, key: str) -> list[Metric] | None:
        """What was measured before under this config key."""
        stored = self.store.load(self.kind, key, self.ledger)
        if stored is None:
            return None
        self.meter.take_over("evaluation", stored.notes["seconds"])
        return [Metric(**metric) for metric in stored.notes["metrics"]]

    def keep_metrics(self, key: str, metrics: list[Metric], seconds: float) -> None:
        """Keep what was measured under this config key."""
        notes = {"metrics": [asdict(metric) for metric in metrics], "seconds": seconds}
        self.store.save(self.kind, key, Stored({}, notes))

    @staticmethod
    def _block(index: int) -> str:
        return f"block-{index:05}"


def _kind(fingerprint: str) -> str:
    return f"unfinished/{fingerprint}"


def _weights(stored: Stored) -> dict[str, CompressedWeight]:
    return {
        name: FORMATS[kind].restore(layout, {field: stored.tensors[f"{name}.{field}"] for field in fields})
        for name, kind, layout, fields in stored.notes["weights"]
    }


def clear(store: Store, fingerprint: str) -> None:
    """Remove what is kept of an experiment that has a record now."""
    shutil.rmtree(store.root / _kind(fingerprint), ignore_errors=True)
