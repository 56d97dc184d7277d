"""One trial of a search, as its journal knows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nowag_exp.search.space import Dimension

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Trial:
    """One choice, and what became of it.

    Attributes:
        number: in the journal.
        values: by key.
        outcome: ``done``; ``failed``: its experiment did; ``unfit``: it was not run; ``repeated``: it is another one
            over again; ``running``: here or in another process; ``waiting``: it will be tried next.
        objective: of a trial that is done.
        fingerprint: of its experiment.
        bits_per_weight: counted before it was run.
        reason: why it is unfit or failed.
    """

    number: int
    values: dict[str, Any]
    outcome: Literal["done", "failed", "unfit", "repeated", "running", "waiting"]
    objective: float | None
    fingerprint: str | None
    bits_per_weight: float | None
    reason: str | None

    @classmethod
    def of(cls, frozen: "FrozenTrial", space: Mapping[str, Dimension]) -> "Trial":
        """As Optuna keeps it."""
        notes = frozen.user_attrs
        outcome: Any = {"COMPLETE": "done", "PRUNED": "unfit", "RUNNING": "running", "WAITING": "waiting"}.get(
            frozen.state.name, "repeated" if "equal_to" in notes else "failed"
        )
        return cls(
            number=frozen.number,
            values={key: frozen.params[key] for key in space if key in frozen.params},
            outcome=outcome,
            objective=frozen.value if outcome == "done" else None,
            fingerprint=notes.get("fingerprint"),
            bits_per_weight=notes.get("bits_per_weight"),
            reason=notes.get("reason"),
        )

    @property
    def choice(self) -> tuple[Any, ...]:
        """Its values, to be compared."""
        return tuple(self.values.values())

    @property
    def is_settled(self) -> bool:
        """Whether its choice need not be tried again."""
        return self.outcome in ("done", "failed", "unfit", "running")
