"""Seconds and memory of each row, stage by stage."""

from dataclasses import dataclass

from nowag_exp.records.record import RunRecord
from nowag_exp.records.wide import Row, Section
from nowag_exp.report.rows import names

MOST_LINES = 24

PARTS = {
    "calibration": ("calibration",),
    "compression": ("compression",),
    "measurement": ("reference", "reference_items", "evaluation", "zero_shot"),
    "load and save": ("load", "checkpoint"),
}
"""What a bar is made of, and the stages of a record that belong to it."""


@dataclass(frozen=True)
class Cost:
    """One row, the mean over its records.

    Attributes:
        seconds: by part; a stage that was taken from the store counts as when it was computed.
        stages: seconds by stage.
        reused: stages that some record took from the store.
        gigabytes: highest resident memory over the stages, 10^9 bytes; ``None`` where the system does not tell.
        gpu_gigabytes: likewise on the GPU.
    """

    name: str
    method: str
    seconds: dict[str, float]
    stages: dict[str, float]
    reused: list[str]
    gigabytes: float | None
    gpu_gigabytes: float | None


@dataclass(frozen=True)
class Costs:
    """One model; ``lines`` are all rows, ``left_out`` says which of them a figure has no room for."""

    model: str
    lines: list[Cost]
    drawn: list[Cost]
    left_out: str


def costs(section: Section) -> Costs:
    """Of all rows of a model, dense ones too."""
    lines = [_cost(row, name) for row, name in zip(section.rows, names(section.rows), strict=True)]
    drawn = lines
    if len(lines) > MOST_LINES:
        by_time = sorted(lines, key=lambda line: -sum(line.seconds.values()))[:MOST_LINES]
        drawn = [line for line in lines if any(line is other for other in by_time)]
    n = len(lines) - len(drawn)
    return Costs(section.model, lines, drawn, f"Left out: the {n} fastest rows; the table has them." if n else "")


def _cost(row: Row, name: str) -> Cost:
    stages = {
        stage: _mean([record.costs.stages[stage].seconds for record in row.records if stage in record.costs.stages])
        for stage in dict.fromkeys(stage for record in row.records for stage in record.costs.stages)
    }
    known = {stage for group in PARTS.values() for stage in group}
    seconds = {part: sum(stages.get(stage, 0.0) for stage in group) for part, group in PARTS.items()}
    seconds["load and save"] += sum(value for stage, value in stages.items() if stage not in known)
    reused = [stage for stage in stages if any(_was_reused(record, stage) for record in row.records)]
    return Cost(
        name,
        str(row.setting["method"]),
        seconds,
        stages,
        reused,
        _peak(row, "peak_bytes"),
        _peak(row, "peak_gpu_bytes"),
    )


def _was_reused(record: RunRecord, stage: str) -> bool:
    return stage in record.costs.stages and record.costs.stages[stage].reused


def _peak(row: Row, name: str) -> float | None:
    peaks = [getattr(cost, name) for record in row.records for cost in record.costs.stages.values()]
    known = [peak for peak in peaks if peak is not None]
    return max(known) / 1e9 if known else None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
