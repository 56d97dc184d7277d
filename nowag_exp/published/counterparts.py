"""Published values of what was measured here, and in words where the protocols differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nowag_exp.published.mapping import (
    MEAN,
    TEXTS,
    Choice,
    calibration_of,
    evaluation_of,
    literals,
    method_of,
    stated_accuracy,
)
from nowag_exp.published.papers import paper_of
from nowag_exp.published.rows import Published

if TYPE_CHECKING:  # Both would bring torch, which a list of tables does not need.
    from nowag_exp.evaluation import Metric
    from nowag_exp.records.record import RunRecord

SETTING = ("pattern", "sparsity", "bits", "group_size", "d")
"""Settings of a method that say how much was compressed: of others, it is another row."""

ACCURACIES = ("acc", "acc_norm")


@dataclass(frozen=True)
class Counterpart:
    """A published value of the same model, method, setting and data set.

    Attributes:
        differences: between the protocols, one each; none if the values are comparable.
    """

    row: Published
    differences: tuple[str, ...]

    @property
    def value(self) -> float:
        """In our unit: accuracies as a share, not in percent."""
        return self.row.value / self._scale

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit, in our unit."""
        return self.row.rounding / self._scale

    @property
    def _scale(self) -> float:
        return 100.0 if self.row.metric == "accuracy" else 1.0


def counterparts(record: "RunRecord", metric: "Metric", rows: list[Published]) -> list[Counterpart]:
    """Rows of the same model, method, setting and data set as a measured metric, with the differences in protocol.

    A value that stands in several files is listed once.
    """
    found: dict[tuple[Any, ...], Counterpart] = {}
    for row in rows:
        if same_subject(record, row) and same_data(metric, row):
            key = (
                row.paper,
                row.table,
                row.model,
                row.method,
                row.calibration,
                row.task,
                row.context_length,
                row.value,
            )
            found.setdefault(key, Counterpart(row, tuple(_differences(record, metric, row))))
    return list(found.values())


def same_subject(record: "RunRecord", row: Published) -> bool:
    """Whether both are of one model, one method and one setting of it."""
    if (record.labels.model, record.labels.method) != (row.model, row.method):
        return False
    choice, actual = method_of(row), record.identity["method"]
    expected = {**_literals("method", choice.option), **choice.settings}
    return all(actual.get(key) == expected[key] for key in SETTING if key in expected)


def same_data(metric: "Metric", row: Published) -> bool:
    """Whether both are of one kind of metric on one data set, in whatever windows or suite."""
    if row.metric == "accuracy":
        suite, _, task = metric.protocol.partition("/")
        if metric.name not in ACCURACIES or task != row.task:
            return False
        return task != MEAN or suite == paper_of(row.paper).suite
    return metric.name == row.metric and metric.protocol.partition("@")[0] in TEXTS.get(row.task, ())


def _differences(record: "RunRecord", metric: "Metric", row: Published) -> Iterator[str]:
    """One sentence each."""
    paper = paper_of(row.paper)
    if row.finetuned != "no":
        yield f"published after fine-tuning ({row.finetuned}), ours without"
    yield from _unlike("method", record.identity["method"], method_of(row))
    calibration = calibration_of(row)
    if record.labels.calibration is not None and calibration is not None:
        yield from _unstated(calibration)
        if "calibration set" not in calibration.unstated:
            if record.labels.calibration != calibration.option:
                yield f"calibration: published {calibration.option}, ours {record.labels.calibration}"
            else:
                yield from _unlike("calibration", record.config.get("calibration", {}), calibration)
    evaluation = evaluation_of(row)
    if evaluation is not None:
        yield from _unstated(evaluation)
        option = metric.protocol.partition("/" if row.metric == "accuracy" else "@")[0]
        if option == evaluation.option:
            yield from _unlike(f"evaluation.{option}", record.config.get("evaluation", {}).get(option, {}), evaluation)
        elif "which C4 windows" not in evaluation.unstated:
            yield f"evaluation: published {evaluation.option}, ours {option}"
    if row.metric == "accuracy":
        if (published := stated_accuracy(row)) and published != metric.name:
            yield f"metric: published {published}, ours {metric.name}"
        if paper.lm_eval and paper.lm_eval != metric.details.get("lm_eval"):
            yield f"lm-eval: published {paper.lm_eval}, ours {metric.details.get('lm_eval')}"
    if paper.dtype and paper.dtype != record.config.get("model", {}).get("dtype"):
        yield f"model.dtype: published {paper.dtype}, ours {record.config.get('model', {}).get('dtype')}"


def _unstated(choice: Choice) -> Iterator[str]:
    for what in choice.unstated:
        yield f"not stated by the source: {what}"


def _unlike(key: str, actual: Mapping[str, Any], choice: Choice) -> Iterator[str]:
    """Settings of ours that are not those of the row, or of the paper's protocol, which the option's YAML holds."""
    expected = {**_literals(key.partition(".")[0], choice.option), **choice.settings}
    for name, value in expected.items():
        if name in actual and actual[name] != value and name not in ("context_length", *SETTING):
            yield f"{key}.{name}: published {_shown(value)}, ours {_shown(actual[name])}"
    published, ours = choice.settings.get("context_length"), actual.get("context_length")
    stated = not any("context" in what for what in choice.unstated)
    if stated and published is not None and ours is not None and published != ours:
        yield f"{key}.context_length: published {published}, ours {ours}"


def _literals(group: str, option: str) -> dict[str, Any]:
    try:
        return literals(group, option)
    except FileNotFoundError:  # A method that is not implemented has no record to compare with.
        return {}


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
