"""The ``search`` node of a sweep file, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nowag_exp.config import Experiment
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Evaluation
from nowag_exp.layout import among
from nowag_exp.records.pairing import LOWER_IS_BETTER, MEAN
from nowag_exp.search.space import VARIES, Dimension, dimension
from nowag_exp.sweep import read
from nowag_exp.yamls import parse_yaml

KEYS = ("space", "minimise", "maximise", "budget", "trials", "sampler")
BUDGETS = ("bits_per_weight",)
SAMPLERS = ("tpe", "random")
NO_NUMBER = ("paths.", "runtime.", "tracking", "checkpoint.")
"""Beginnings of keys that a result does not depend on."""


@dataclass(frozen=True)
class SearchRequest:
    """A search, as asked for.

    Attributes:
        name: of the sweep.
        base: overrides of every trial.
        space: what each trial chooses, by key.
        space_text: the same as it was written.
        objective: metric, and protocol if it was given; ``None`` for the first perplexity.
        minimise: whether less is better.
        budget: most bits a weight; ``None`` for any.
        trials: how many experiments.
        sampler: ``tpe`` or ``random``.
        seed: of the experiments, and of the sampler.
    """

    name: str
    base: dict[str, str]
    space: dict[str, Dimension]
    space_text: dict[str, str]
    objective: str | None
    minimise: bool
    budget: float | None
    trials: int
    sampler: str
    seed: int

    def identity(self) -> dict[str, Any]:
        """What fixes which settings are tried, given how long: all but the number of trials."""
        base = {key: value for key, value in self.base.items() if not key.startswith(NO_NUMBER)}
        return {
            "space": self.space_text,
            "base": base,
            "objective": [self.objective, self.minimise],
            "budget": self.budget,
            "sampler": self.sampler,
        }


def is_search(name: str) -> bool:
    """Whether a sweep is one.

    Raises:
        RequestError: if there is no such sweep or its file is not one.
    """
    return read(name)["search"] is not None


def read_search(name: str, overrides: list[str]) -> SearchRequest:
    """The search of ``sweeps/NAME.yaml``; the command line replaces what the file says, also ``search.KEY=VALUE``.

    Raises:
        RequestError: naming what is wrong.
    """
    content, where = read(name), f"sweeps/{name}.yaml"
    node = content["search"]
    if content["axes"] != [{}]:
        raise RequestError(f"{where}: has both axes and search; a search chooses its jobs: put the axes into its space")
    if not isinstance(node, Mapping):
        raise RequestError(f"{where}: search must be a group of settings ({', '.join(KEYS)}); got {node!r}")
    command_line = dict(_split(text) for text in overrides)
    node = _with_command_line(dict(node), command_line)
    strange = [key for key in node if key not in KEYS]
    if strange:
        raise RequestError(f"search.{strange[0]}: unknown key" + among(str(strange[0]), list(KEYS)))
    seeds = parse_yaml(command_line.pop("seeds"), "seeds") if "seeds" in command_line else content["seeds"]
    if not isinstance(seeds, list) or len(seeds) != 1 or type(seeds[0]) is not int:
        raise RequestError(f"seeds: a search takes one, such as [0]: it is the sampler's, too; got {seeds!r}")
    base = {**content["base"], "seed": str(seeds[0]), **command_line}
    base |= {**content["models"].get(base.get("model"), {}), **command_line}
    space_text = _space(node.get("space"))
    # What the command line says of a key counts, be it one value or several.
    space_text |= {key: command_line[key] for key in space_text if key in command_line}
    space_text |= {key: text for key, text in base.items() if key not in space_text and dimension(key, text)}
    base = {key: text for key, text in base.items() if key not in space_text}
    space = {key: found for key, text in space_text.items() if (found := dimension(key, text))}
    base |= {key: text for key, text in space_text.items() if key not in space}
    for key in space:
        if not key.startswith(tuple(f"{group}." for group in VARIES)) and key not in VARIES:
            raise RequestError(
                f"search.space.{key}: a search varies {' and '.join(VARIES)} only: values of another model, evaluation "
                "or seed do not compare; give one value, and run one search for each"
            )
    if not space:
        raise RequestError("search.space: leaves nothing to choose; give a key several values, such as method.d: 2,4")
    objective, minimise = _objective(node)
    return SearchRequest(
        name=name,
        base=base,
        space=space,
        space_text={key: space_text[key] for key in space},
        objective=objective,
        minimise=minimise,
        budget=_budget(node.get("budget")),
        trials=_trials(node.get("trials")),
        sampler=_sampler(node.get("sampler", "tpe")),
        seed=seeds[0],
    )


def resolve_objective(request: SearchRequest, experiment: Experiment) -> tuple[str, str]:
    """Metric and protocol that are optimised.

    Raises:
        RequestError: if it is not measured, or should be optimised in the other direction.
    """
    known = measured(experiment.evaluation)
    which = "minimise" if request.minimise else "maximise"
    if request.objective is None:
        first = next((pair for pair in known if pair[0] == "perplexity"), None)
        if first is None:
            raise RequestError(f"search.minimise: no perplexity is measured; name one of: {_listed(known)}")
        return first
    name, _, protocol = request.objective.partition(" ")
    found = [pair for pair in known if pair[0] == name and protocol.strip() in ("", pair[1])]
    if not found:
        raise RequestError(f"search.{which}: {request.objective} is not measured; there are: {_listed(known)}")
    if (name in LOWER_IS_BETTER) != request.minimise:
        other = "maximise" if request.minimise else "minimise"
        better = "less" if name in LOWER_IS_BETTER else "more"
        raise RequestError(f"search.{which}: of {name}, {better} is better; write {other}: {request.objective}")
    return found[0]


def measured(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Name and protocol of each metric that a compressed model will have."""
    of_text = ["perplexity", *(["kl", "top1_agreement"] if evaluation.fidelity else [])]
    found = [(name, text.protocol) for text in evaluation.perplexities for name in of_text]
    for suite in evaluation.zero_shot:
        defined = {task: loaded.aggregation() for task, loaded in suite.load_tasks().items()}
        for name in suite.metrics:
            tasks = [task for task in suite.tasks if name in defined[task]]
            found += [(name, f"{suite.name}/{task}") for task in tasks]
            if 1 < len(tasks) == len(suite.tasks):
                found.append((name, f"{suite.name}/{MEAN}"))
        if evaluation.fidelity:
            found.append(("flips", suite.name))
    return found


def _listed(known: list[tuple[str, str]]) -> str:
    return ", ".join(" ".join(pair) for pair in known)


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise RequestError(f"{text}: is not KEY=VALUE; an override looks like model=tiny")
    return key, value


def _with_command_line(node: dict[str, Any], command_line: dict[str, str]) -> dict[str, Any]:
    """The node with ``search.KEY`` of the command line, which is taken out of it."""
    for full in [key for key in command_line if key.startswith("search.")]:
        key, _, below = full.removeprefix("search.").partition(".")
        text = command_line.pop(full)
        value = text if key == "space" else parse_yaml(text, full)
        node[key] = {**node.get(key, {}), below: value} if below else value
        if key in ("minimise", "maximise"):
            node.pop("maximise" if key == "minimise" else "minimise", None)
    return node


def _space(space: Any) -> dict[str, str]:
    if not isinstance(space, Mapping) or not space:
        raise RequestError(
            "search.space: must map config keys to values in Hydra's sweep grammar, such as method.d: 2,4; "
            f"got {space!r}"
        )
    for key, value in space.items():
        if isinstance(value, list | dict) or value in (None, ""):
            raise RequestError(
                f"search.space.{key}: must be in Hydra's sweep grammar, such as 2,4 or interval(0.1,1); got {value!r}"
            )
    return {str(key): str(value) for key, value in space.items()}


def _objective(node: Mapping[str, Any]) -> tuple[str | None, bool]:
    given = [key for key in ("minimise", "maximise") if node.get(key) is not None]
    if len(given) == 2:
        raise RequestError("search: has both minimise and maximise; a search has one objective")
    if not given:
        return None, True
    text = node[given[0]]
    if not isinstance(text, str) or not text.strip():
        raise RequestError(f"search.{given[0]}: must be a metric and its protocol, such as perplexity; got {text!r}")
    return " ".join(text.split()), given == ["minimise"]


def _budget(budget: Any) -> float | None:
    if budget is None:
        return None
    if not isinstance(budget, Mapping) or set(budget) != set(BUDGETS):
        raise RequestError(f"search.budget: must be a group with {', '.join(BUDGETS)}; got {budget!r}")
    bits = budget["bits_per_weight"]
    if isinstance(bits, bool) or not isinstance(bits, int | float) or bits <= 0:
        raise RequestError(f"search.budget.bits_per_weight: must be a number above 0; got {bits!r}")
    return float(bits)


def _trials(trials: Any) -> int:
    if type(trials) is not int or trials < 1:
        raise RequestError(f"search.trials: must be a whole number, at least 1; got {trials!r}")
    return trials


def _sampler(sampler: Any) -> str:
    if sampler not in SAMPLERS:
        raise RequestError(f"search.sampler: {sampler} is unknown" + among(str(sampler), list(SAMPLERS)))
    return str(sampler)
