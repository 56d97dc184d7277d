"""Whether a choice of settings can be run, and what it takes, before it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nowag_exp.compose import compose
from nowag_exp.config import Experiment, build_experiment
from nowag_exp.errors import ConfigError, RequestError
from nowag_exp.experiment import Workbench, check, recorded
from nowag_exp.models import linear_shapes
from nowag_exp.search.request import SearchRequest
from nowag_exp.search.space import overrides


@dataclass(frozen=True)
class Fit:
    """A choice that can be run.

    Attributes:
        experiment: built from it.
        bits_per_weight: counted from shapes and settings; ``None`` if they do not fix it.
    """

    experiment: Experiment
    bits_per_weight: float | None


def fit(request: SearchRequest, values: Mapping[str, Any], bench: Workbench) -> Fit | str:
    """The experiment of a choice, or in a line why it does not fit: the model's widths, a range, the budget.

    Raises:
        RequestError: if no choice could be run: a key that names nothing, a model that is not there, a budget for a
            method whose size does not follow from its settings.
    """
    config = compose([*overrides(request.base), *overrides(values)])
    try:
        experiment = build_experiment(config)
        shapes = linear_shapes(bench.architecture(experiment))
        if problem := experiment.method.check_shapes(shapes):
            return f"method.{problem}"
        if recorded(experiment) is None:
            check(experiment, bench)
    except ConfigError as error:
        return " ".join(str(error).split())
    bits = bits_per_weight(experiment, shapes)
    if request.budget is not None:
        if bits is None:
            raise RequestError(
                f"search.budget: the size of {experiment.method.name} is known only after it has run; leave the budget "
                "out, or search a method whose size follows from its settings"
            )
        if bits > request.budget:
            return f"{bits:.4g} bits a weight are more than the budget of {request.budget:g}"
    return Fit(experiment, bits)


def bits_per_weight(experiment: Experiment, shapes: Mapping[str, tuple[int, int]]) -> float | None:
    """Of all linears, as a record will count them; the blocks of a model are alike.

    Args:
        experiment: with the method.
        shapes: ``(d_out, d_in)`` of the linears of a block.
    """
    bits = [experiment.method.count_bits(*shape) for shape in shapes.values()]
    known = [one for one in bits if one is not None]
    n_weights = sum(d_out * d_in for d_out, d_in in shapes.values())
    return sum(known) / n_weights if len(known) == len(bits) else None
