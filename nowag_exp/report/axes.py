"""Limits, ticks and places on an axis. Plain numbers, so that labels are plain text."""

import math
from collections.abc import Sequence

SPANS_DECADES = 4.0
"""Ratio of largest to smallest value from which an axis is logarithmic."""

STEPS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
"""Places of ticks within a decade, from sparse to dense."""

FEWEST_TICKS, MOST_TICKS = 3, 7


def is_log(values: Sequence[float]) -> bool:
    """Whether values are better seen on a logarithmic axis."""
    return min(values) > 0 and max(values) / min(values) > SPANS_DECADES


def limits(low: float, high: float, log: bool, margin: float = 0.07) -> tuple[float, float]:
    """Ends of an axis with some room beyond the values."""
    if log:
        room = (high / low) ** margin if high > low else 1.5
        return low / room, high * room
    room = (high - low) * margin if high > low else abs(high) * margin or 1.0
    return low - room, high + room


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Three to eight round numbers within the limits of an axis."""
    if not log:
        return _linear(low, high)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in STEPS:
        found = [step * 10.0**decade for decade in range(first, last + 1) for step in steps]
        within = [round(tick, 12 - first) for tick in found if low <= tick <= high]
        if len(within) >= FEWEST_TICKS:
            return within[:: math.ceil(len(within) / MOST_TICKS)]
    return _linear(low, high)


def _linear(low: float, high: float) -> list[float]:
    power = 10.0 ** math.floor(math.log10((high - low) / FEWEST_TICKS))
    for step in (5 * power, 2 * power, power, power / 2):
        found = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(found) >= FEWEST_TICKS:
            break
    return [round(tick, 12) for tick in found]


def tick_label(value: float) -> str:
    """``22``, ``1,900``, ``10⁵``, ``3·10⁵``."""
    if abs(value) < 1e5:
        return f"{value:,.6g}" if abs(value) < 1e4 or value % 1 else f"{value:,.0f}"
    power = math.floor(math.log10(abs(value)))
    raised = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    factor = value / 10**power
    return f"10{raised}" if factor == 1 else f"{factor:g}·10{raised}"


def layers(places: Sequence[tuple[float, float]], near: float) -> list[int]:
    """How many later points lie on each one: no farther from it than ``near``."""
    return [sum(math.dist(place, later) <= near for later in places[i + 1 :]) for i, place in enumerate(places)]
