"""What a search may choose: values of config keys in Hydra's sweep grammar."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, RangeSweep

from nowag_exp.compose import reported
from nowag_exp.errors import RequestError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

VARIES = ("method", "calibration")
"""Groups that a search may vary. Values of other models and evaluations are on other tokens, so they do not compare."""


@dataclass(frozen=True)
class Dimension:
    """The values of one key.

    Attributes:
        key: of the config.
        choices: as overrides write them; ``None`` for an interval.
        low: end of an interval or of a range of integers.
        high: the other end, included.
        step: of a range of integers; ``None`` for an interval of real numbers.
        log: whether an interval is searched on a logarithmic scale.
    """

    key: str
    choices: tuple[str, ...] | None = None
    low: float = 0
    high: float = 0
    step: int | None = None
    log: bool = False

    @property
    def values(self) -> list[Any] | None:
        """All of them; ``None`` for an interval of real numbers."""
        if self.choices is not None:
            return list(self.choices)
        return None if self.step is None else list(range(int(self.low), int(self.high) + 1, self.step))

    def distribution(self) -> "BaseDistribution":
        """As Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        if self.step is not None:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=self.step)
        return FloatDistribution(self.low, self.high, log=self.log)


def dimension(key: str, text: str) -> Dimension | None:
    """What the grammar says of one key; ``None`` if it is a single value.

    Raises:
        RequestError: if it cannot be parsed, or is an interval without an inside.
    """
    override = f"{key}={text}"
    with reported([override]):
        (parsed,) = OverridesParser.create().parse_overrides([override])
        if not parsed.is_sweep_override():
            return None
        sweep = parsed.value()
        if isinstance(sweep, IntervalSweep):
            return _interval(key, text, sweep)
        if isinstance(sweep, RangeSweep) and all(type(x) is int for x in (sweep.start, sweep.stop, sweep.step)):
            values = range(sweep.start, sweep.stop, sweep.step)
            if len(values) > 1 and sweep.step > 0:
                return Dimension(key, low=values[0], high=values[-1], step=sweep.step)
        choices = tuple(dict.fromkeys(parsed.sweep_string_iterator()))
    if not choices:
        raise RequestError(f"search.space.{key}: {text} has no values")
    return Dimension(key, choices=choices)


def _interval(key: str, text: str, sweep: IntervalSweep) -> Dimension:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if low is None or high is None or not low < high or (log and low <= 0):
        raise RequestError(
            f"search.space.{key}: {text} must go from a smaller to a larger number"
            + (", both above 0 for a logarithmic scale" if log else "")
        )
    return Dimension(key, low=low, high=high, step=1 if type(low) is int and type(high) is int else None, log=log)


def size(space: Mapping[str, Dimension]) -> float:
    """Number of combinations; infinite if a dimension is."""
    lengths = [math.inf if one.values is None else len(one.values) for one in space.values()]
    return math.prod(lengths)


def overrides(values: Mapping[str, Any]) -> list[str]:
    """As the command line takes them."""
    return [f"{key}={value}" for key, value in values.items()]
