"""The only door between YAML and objects: typed, checked in full before anything is loaded, fingerprinted."""

import dataclasses
import functools
import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from nowag_exp.calibration import Calibration
from nowag_exp.errors import ConfigError
from nowag_exp.evaluation import Evaluation, Measurement, Perplexity, ZeroShot
from nowag_exp.files import as_name
from nowag_exp.layout import among
from nowag_exp.methods import Dense, Method, Needs
from nowag_exp.models import ModelSource
from nowag_exp.ops.kernels.choice import Kernels
from nowag_exp.records.store import content_key
from nowag_exp.settings import settings
from nowag_exp.tracking import Tracker

PACKAGE = "nowag_exp."

TARGET = re.compile(r"nowag_exp(\.[a-z]\w{0,50}){1,6}\.[A-Z]\w{0,50}", re.ASCII)
"""A class in a module; `__main__` is none, and importing it would run the command."""
MISSING = "???"
MOST_THREADS = 1024
"""Of far more the system starts none, which comes up as a model that cannot be loaded."""
Part = TypeVar("Part")


@settings
class Runtime:
    """How to compute, not what, so it is not fingerprinted: sums in another order differ in their last digits.

    Attributes:
        device: ``auto`` takes a GPU if there is one.
        offload: whether the model is streamed from its checkpoint one block at a time instead of loaded: ``always``,
            ``never``, or ``auto``, if it does not fit. The results are the same to the last bit.
        activations: where hidden states wait between two blocks: on the ``device``, in main memory (``cpu``), in a
            memory-mapped file (``disk``), or ``auto``, in main memory unless it is short.
        batch_tokens: tokens of one forward pass; at least one window is taken. Where memory does not suffice for them,
            the batch is halved, and the ledger says so.
        kernels: ``auto`` for those compiled for the device, ``reference`` for their plain torch twins.
        engine: where the linears of an input site are compressed: ``local``, on the device or, if that is a GPU, on all
            GPUs of this machine; or on a ``ray`` cluster. The results do not depend on it.
        threads: of torch on the CPU; ``null`` for its default.
        save_every: seconds of work after which an unfinished experiment is kept in the store, so that a killed one
            loses no more than about that; 0 for after each block.
    """

    device: Literal["auto", "cpu", "cuda"]
    offload: Literal["auto", "always", "never"]
    activations: Literal["auto", "device", "cpu", "disk"]
    batch_tokens: int
    kernels: Kernels
    engine: Literal["local", "ray"]
    threads: int | None
    save_every: float

    def __post_init__(self) -> None:
        if self.save_every < 0:
            raise ValueError(f"save_every: must be a number of seconds, 0 or more; got {self.save_every:g}")
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens: must be at least 1; got {self.batch_tokens}")
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise ValueError(f"threads: must be 1 to {MOST_THREADS}, or null for torch's default; got {self.threads}")


@settings
class CheckpointOptions:
    """Whether the compressed model is kept.

    Attributes:
        save: write it to ``checkpoints/`` below ``paths.results``, in Hugging Face layout. Does not change any number,
            so it is not fingerprinted.
    """

    save: bool


@settings
class Paths:
    """Where results are kept.

    Attributes:
        results: records in ``runs/``, stages in ``store/``, compressed models in ``checkpoints/``, logs in ``logs/``,
            tables in ``tables/`` below it; with tracking also ``tracked/`` and ``wandb/`` or ``tensorboard/``.
    """

    results: str

    @property
    def folder(self) -> Path:
        """As a path."""
        return Path(self.results).expanduser()


@settings
class EvaluationOptions:
    """What holds for all measurements of an experiment.

    Attributes:
        data_dir: local copies of the data sets, in the hub's layout; read by the measurements through interpolation.
        fidelity: also measure how far the model is from the dense one, on the same tokens and items.
        noise_floor_windows: of each perplexity, how many windows the dense model is run on in bfloat16 and in float32,
            to say which divergence means nothing; part of the experiment with ``method=dense`` alone. 0 for none.
    """

    data_dir: str | None
    fidelity: bool
    noise_floor_windows: int

    def __post_init__(self) -> None:
        if self.noise_floor_windows < 0:
            raise ValueError(f"noise_floor_windows: must be 0 (none) or more; got {self.noise_floor_windows}")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment, checked.

    Attributes:
        calibration: ``None`` if the method uses none, whatever the config says: such a result does not depend on it.
        config: the resolved config it was built from.
    """

    model: ModelSource
    calibration: Calibration | None
    method: Method
    evaluation: Evaluation
    tracking: Tracker
    runtime: Runtime
    checkpoint: CheckpointOptions
    paths: Paths
    config: dict[str, Any]

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What fixes the result: output paths, tracking and runtime are left out, input files count by content.

        Taken once, when the experiment is checked: what is computed later is held against it.
        """
        return {
            "model": self.model.identity(),
            "method": self.method.identity(),
            "calibration": self.calibration.identity() if self.calibration else None,
            "evaluation": self.evaluation.identity(self.is_dense),
        }

    @property
    def is_dense(self) -> bool:
        """Whether the model stays as it is."""
        return isinstance(self.method, Dense)

    @functools.cached_property
    def texts(self) -> dict[str, Calibration | Perplexity]:
        """Texts that windows are drawn from, by their config key."""
        calibration = {} if self.calibration is None else {self.calibration.key: self.calibration}
        return {**calibration, **{part.key: part for part in self.evaluation.perplexities}}

    def batch_size(self, text: Calibration | Perplexity) -> int:
        """Windows of one forward pass."""
        return max(1, self.runtime.batch_tokens // text.context_length)

    def text_identity(self, key: str) -> dict[str, Any]:
        """What fixed one of the :attr:`texts` when the experiment was checked."""
        identity = self.identity
        found: dict[str, Any] = (
            identity["calibration"] if key == "calibration" else identity["evaluation"]["perplexity"][key]
        )
        return found

    @property
    def fingerprint(self) -> str:
        """16 hex digits that equal experiments share."""
        return content_key(self.identity)

    def describe(self) -> str:
        """A few words for progress lines."""
        return " ".join(filter(None, [self.model.label, self.method.name, self.method.describe()]))

    @property
    def checkpoint_folder(self) -> Path:
        """Where the compressed model is kept if ``checkpoint.save``."""
        name = as_name(f"{self.model.label}-{self.method.name}-{self.fingerprint}")
        return self.paths.folder / "checkpoints" / name


PARTS: dict[str, type] = {
    "model": ModelSource,
    "calibration": Calibration,
    "method": Method,
    "tracking": Tracker,
    "runtime": Runtime,
    "checkpoint": CheckpointOptions,
    "paths": Paths,
}
KEYS = {*PARTS, "evaluation", "seed", "data_dir"}


def build_experiment(config: Mapping[str, Any]) -> Experiment:
    """Check a composed config in full and turn it into objects.

    Args:
        config: plain containers; each part names its class in ``_target_``.

    Raises:
        ConfigError: with every problem, each by its full key.
    """
    problems = [f"{key}: unknown key; the config has: {', '.join(sorted(KEYS))}" for key in config if key not in KEYS]
    if type(seed := config.get("seed", 0)) is not int:
        # Parts take it over, and would be blamed for it.
        raise ConfigError([*problems, f"seed: must be an integer; got {_shown(seed)}"])
    parts: dict[str, Any] = {}
    for key, base in PARTS.items():
        try:
            parts[key] = build(config.get(key, MISSING), key, base)
        except ConfigError as error:
            problems += error.problems
    try:
        parts["evaluation"] = build_evaluation(config.get("evaluation", MISSING))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    if parts["method"].needs is Needs.NOTHING:
        parts["calibration"] = None
    return Experiment(**parts, config=dict(config))


def build_evaluation(node: Any) -> Evaluation:
    """The set of measurements: each a group of settings under its own key, beside the options that all share.

    Raises:
        ConfigError: with every problem, each by its full key.
    """
    if not isinstance(node, Mapping):
        raise ConfigError([f"evaluation: must be a group of settings; got {_shown(node)}"])
    shared = {key: value for key, value in node.items() if not isinstance(value, Mapping)}
    measurements: dict[str, Any] = {}
    problems: list[str] = []
    try:
        options = build(shared, "evaluation", EvaluationOptions)
    except ConfigError as error:
        problems += error.problems
    for key in sorted(node.keys() - shared.keys()):
        try:
            part = build(node[key], f"evaluation.{key}", Measurement)  # type: ignore[type-abstract]
            if part.key != f"evaluation.{key}":
                own = part.key.removeprefix("evaluation.")
                problems.append(f"evaluation.{key}.name: is {_shown(own)}, but must be {key}, under which it stands")
            measurements[key] = part
        except ConfigError as error:
            problems += error.problems
    if not measurements and not problems:
        problems.append("evaluation: measures nothing; set evaluation=NAME or evaluation=[NAME,NAME]")
    if problems:
        raise ConfigError(problems)
    return Evaluation(
        perplexities=tuple(part for part in measurements.values() if isinstance(part, Perplexity)),
        zero_shot=tuple(part for part in measurements.values() if isinstance(part, ZeroShot)),
        fidelity=options.fidelity,
        noise_floor_windows=options.noise_floor_windows,
    )


def build(node: Any, key: str, base: type[Part]) -> Part:
    """Build the object that a config node describes.

    Args:
        node: plain containers; ``_target_`` names a settings class of this package.
        key: full key of the node, for messages.
        base: what the class must be.

    Raises:
        ConfigError: on a class that is not ours or not a ``base``; on unknown, missing and mistyped values, all of them
            at once; and, if there are none, on the first value out of range.
    """
    if not isinstance(node, Mapping):
        raise ConfigError([f"{key}: must be a group of settings; got {_shown(node)}"])
    values = {name: value for name, value in node.items() if name != "_target_"}
    cls = _resolve(node.get("_target_"), key, base)
    unset = {name for name, value in values.items() if value == MISSING}
    problems = [f"{key}.{name}: is not set; add {key}.{name}=VALUE" for name in sorted(unset)]
    # Checked as JSON: strict, so "0.5" is no number and 1 no boolean, yet a list may fill a tuple.
    try:
        part = TypeAdapter(cls).validate_json(_as_json(values, key), strict=True)
    except ValidationError as error:
        details = [detail for detail in error.errors() if not unset & set(detail["loc"])]
        raise ConfigError(problems + [_explain(detail, key, cls) for detail in details]) from error
    if problems:
        raise ConfigError(problems)
    return part


def _as_json(values: Any, key: str) -> str:
    try:
        return json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError([f"{key}: has a value that JSON cannot hold ({error})"]) from error


def _resolve(target: Any, key: str, base: type[Part]) -> type[Part]:
    if not isinstance(target, str) or not TARGET.fullmatch(target):
        raise ConfigError([f"{key}._target_: must name a class below '{PACKAGE}'; got {_shown(target)}"])
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError([f"{key}._target_: there is no {target}"]) from error
    if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        raise ConfigError([f"{key}._target_: {target} is not a {base.__name__}"])
    return cast(type[Part], cls)


def _explain(detail: Any, key: str, cls: type) -> str:
    """One pydantic error as ``full.key: what is wrong; what would be right``."""
    where = ".".join([key, *map(str, detail["loc"])])
    known = sorted(field.name for field in dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else []
    kind = detail["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        name = str(detail["loc"][-1])
        return f"{where}: unknown key" + among(name, known)
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where}: is not set; add {where}=VALUE"
    if kind == "value_error":
        # A range check of __post_init__: its message opens with the field.
        return f"{where}.{detail['ctx']['error']}"
    hint = ""
    if detail["loc"] == ("pattern",) and isinstance(detail["input"], int):
        hint = " (YAML reads 2:4 without quotes as a number in base 60; write '2:4')"
    elif kind == "string_type" and isinstance(detail["input"], bool | int | float):
        # What was typed is gone: 1e5 and 100000.0 are one number.
        hint = f", which is no text; what looks like a number takes quotes: {where}='\"TEXT\"'"
    return f"{where}: {detail['msg'][0].lower()}{detail['msg'][1:]}; got {_shown(detail['input'])}{hint}"


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, Mapping) else "a group of settings"
    return text if len(text) <= 60 else f"{text[:57]}..."
