"""What stages really took: records of the same model on the same kind of machine correct what is estimated."""

import statistics
from collections.abc import Iterable
from typing import Any

from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import RequestError
from nowag_exp.methods import Method
from nowag_exp.planning.pieces import Dissector, Piece, Work
from nowag_exp.planning.prices import Prices
from nowag_exp.records.record import RunRecord

MOST = 12
"""Records looked at for one figure, the newest first."""

LIKE = {"reference": "evaluation", "reference_items": "zero_shot"}
"""Stages whose own costs say little, as a record does not tell whether they were computed or read from the store."""


class History:
    """Ratios of recorded to estimated seconds.

    Args:
        records: to learn from.
        provenance: of this machine, as records have it; others are not looked at.
        dissector: takes experiments apart.
        prices: of this machine.
    """

    def __init__(
        self, records: Iterable[RunRecord], provenance: dict[str, Any], dissector: Dissector, prices: Prices
    ) -> None:
        here = _machine(provenance)
        alike = [record for record in records if _machine(record.provenance) == here]
        self._records = sorted(alike, key=lambda record: record.costs.finished_at, reverse=True)
        self._dissector, self._prices = dissector, prices
        self._known: dict[tuple[str, ...], float | None] = {}

    def ratio(self, experiment: Experiment, stage: str) -> float | None:
        """Median of recorded by estimated seconds of a stage of the same model; ``None`` without a record.

        Compression is compared with the same method alone, on dense or compressed activations alike.
        """
        stage = LIKE.get(stage, stage)
        model = self._dissector.model_identity(experiment)
        key = (repr(model), stage, *(_kind(experiment.method) if stage == "compression" else ()))
        if key not in self._known:
            ratios = []
            for record in self._records:
                if record.identity["model"] == model and (found := self._of_record(record, experiment, stage)):
                    ratios.append(found)
                if len(ratios) == MOST:
                    break
            self._known[key] = statistics.median(ratios) if ratios else None
        return self._known[key]

    def _of_record(self, record: RunRecord, experiment: Experiment, stage: str) -> float | None:
        cost = record.costs.stages.get(stage)
        if cost is None or cost.reused:
            return None
        try:
            done = build_experiment(record.config)
            pieces = [piece for piece in self._dissector.pieces(done) if piece.stage == stage]
        except RequestError:
            return None  # Of another version of the configs, or on texts that are gone.
        if stage == "compression":
            if _kind(done.method) != _kind(experiment.method):
                return None
            # Whether it made factors or found them, a record does not tell.
            pieces = [piece for piece in pieces if not piece.keys]
        if stage == "evaluation" and done.is_dense != experiment.is_dense:
            return None
        estimated = self.estimate(pieces)
        return cost.seconds / estimated if estimated else None

    def estimate(self, pieces: Iterable[Piece]) -> float | None:
        """Seconds of pieces by the prices of this machine; ``None`` if one has an unknown amount of work."""
        total = 0.0
        for piece in pieces:
            if piece.work is None:
                return None
            total += self.price(piece.work)
        return total

    def price(self, work: Work) -> float:
        """Seconds of some work by the prices of this machine."""
        return sum(count * self._prices.seconds(task) for task, count in work.items())


def _kind(method: Method) -> tuple[str, str]:
    return type(method).__qualname__, method.propagate


def _machine(provenance: dict[str, Any]) -> tuple[Any, ...]:
    machine = provenance["machine"]
    return (*(machine[name] for name in ("processor", "cores", "device", "gpu")), provenance["threads"])
