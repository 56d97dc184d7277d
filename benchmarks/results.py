"""Runs of the benchmarks as JSON, so that two commits can be compared, and as the table of README.md."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Comparison, Rates, Wanted
from nowag_exp.errors import RequestError
from nowag_exp.output import write
from nowag_exp.records.provenance import provenance

FOLDER = Path("results/benchmarks")

SCHEMA_VERSION = 1

FEW_ROUNDS = 3
"""Under so many rounds their spread says nothing."""

LEAST_CHANGE = 1.05
"""Changes of the ratio up to this factor are not marked, whatever the rounds say."""

LEAST_CHANGE_OF_FEW = 1.2
"""The same where there are few rounds."""


@dataclass(frozen=True)
class Run:
    """One run of the benchmarks.

    Attributes:
        command: its arguments.
        made_at: UTC, to the second.
        provenance: versions, commit, machine and threads.
        rates: of the device; ``None`` if no part had a floor.
        comparisons: in the order in which they were made.
    """

    command: str
    made_at: str
    provenance: dict[str, Any]
    rates: Rates | None
    comparisons: list[Comparison]


def new_run(command: str, device: torch.device, rates: Rates | None, comparisons: list[Comparison]) -> Run:
    """A run that ended now."""
    return Run(command, datetime.now(UTC).isoformat(timespec="seconds"), provenance(device), rates, comparisons)


def save(run: Run, folder: Path = FOLDER) -> Path:
    """Write a run as JSON, and beside it the markdown table; named by date and commit."""
    commit = (run.provenance["git"] or {}).get("commit", "unknown")[:9]
    path = folder / f"{run.made_at.replace(':', '').replace('+0000', '')}-{commit}.json"
    content = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(run)}
    content["rates"] = None if run.rates is None else run.rates._asdict()
    for row, comparison in zip(content["comparisons"], run.comparisons, strict=True):
        row["wanted"] = comparison.wanted._asdict()
    write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write(path.with_suffix(".md"), markdown(run))
    return path


def load(path: Path) -> Run:
    """Read a run.

    Raises:
        RequestError: if the file is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema_version") != SCHEMA_VERSION:
            raise ValueError("another version")
        rates = content.pop("rates")
        rows = [_comparison(row) for row in content.pop("comparisons")]
        return Run(**content, rates=None if rates is None else Rates(**rates), comparisons=rows)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); runs are kept in {FOLDER}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{path}: is no run of the benchmarks of this version; give a JSON file of {FOLDER}"
        ) from error


def _comparison(row: dict[str, Any]) -> Comparison:
    return Comparison(**{**row, "ratios": tuple(row["ratios"]), "wanted": Wanted(**row["wanted"])})


HEADER = f"{'':<70} {'ours':>10} {'plain':>10} {'ratio':>8} {'floor':>10} {'x floor':>8}  wanted"


def line(row: Comparison) -> str:
    """One comparison for the terminal."""
    verdict = "" if row.wanted == Wanted() else f"  {_wanted(row.wanted, row.unit)}"
    verdict += "" if row.is_reached else "  NOT REACHED"
    return (
        f"{row.name:<70} {_value(row.ours, row.unit):>10} {_value(row.plain, row.unit):>10} {_factor(row.ratio):>8} "
        f"{_value(row.floor, row.unit):>10} {_factor(row.floors):>8}{verdict}"
    )


def markdown(run: Run) -> str:
    """The table for README.md, with the machine, date and command that it was made with."""
    machine, git = run.provenance["machine"], run.provenance["git"] or {}
    device = (
        machine["gpu"] or f"{machine['cores']} cores of {machine['processor']}, {run.provenance['threads']} threads"
    )
    lines = [
        f"Measured {run.made_at[:10]} with `python -m benchmarks {run.command}` on {device}, torch "
        f"{run.provenance['libraries']['torch']}, commit {git.get('commit', 'unknown')[:9]}"
        f"{' with changes' if git.get('dirty') else ''}" + ("." if run.rates is None else f"; {_rates(run.rates)}."),
        "",
        "| comparison | ours | plain | ratio | floor | times its floor | wanted |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in run.comparisons:
        cells = [
            row.name,
            _value(row.ours, row.unit),
            _value(row.plain, row.unit),
            _factor(row.ratio),
            _value(row.floor, row.unit),
            _factor(row.floors),
            _wanted(row.wanted, row.unit) + ("" if row.is_reached else ": not reached"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rates(rates: Rates) -> str:
    return (
        f"matrix product {rates.product / 1e9:,.0f} Gop/s in fp32 and {rates.half_product / 1e9:,.0f} in bf16, "
        f"multiply-adds outside of it {rates.scalar / 1e9:,.0f} Gop/s, memory {rates.bandwidth / 1e9:,.1f} GB/s"
    )


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit != "s":
        return f"{value:,.0f} MB" if unit else f"{value:,.2f}"
    return f"{value:.3f} s" if value >= 0.1 else f"{1000 * value:.3f} ms"


def _factor(factor: float | None) -> str:
    return "-" if factor is None else f"{factor:,.2f}"


def _wanted(wanted: Wanted, unit: str) -> str:
    ratio, floors, at_most = wanted
    parts = [] if ratio is None else [f"ratio {ratio:g}"]
    parts += [] if floors is None else [f"{floors:g} floors"]
    parts += [] if at_most is None else [f"{at_most:g} {unit}"]
    return ", ".join(parts) or "-"


def compare_runs(a: Run, b: Run) -> str:
    """Two runs side by side: the ratios of both, their ratio, and what got slower or faster beyond noise.

    A ratio is of times taken in turn, so it survives a machine that is busier on one day than on another.

    Raises:
        RequestError: if they have nothing in common, or differ in what they ran on.
    """
    for what, values in {
        "command": (a.command, b.command),
        "machine": (_hardware(a), _hardware(b)),
        "threads": (a.provenance["threads"], b.provenance["threads"]),
    }.items():
        if values[0] != values[1]:
            raise RequestError(f"cannot compare: {what} is {values[0]!r} in A and {values[1]!r} in B; run both alike")
    known = {row.name: row for row in b.comparisons}
    common = [(row, known[row.name]) for row in a.comparisons if row.name in known]
    if not common:
        raise RequestError("cannot compare: A and B have no comparison in common; run the same parts for both")
    lines = [f"{'':<70} {'ours A':>10} {'ours B':>10} {'ratio A':>8} {'ratio B':>8} {'B / A':>6}"]
    for old, new in common:
        change = None if old.ratio is None or new.ratio is None else new.ratio / old.ratio
        lines.append(
            f"{old.name:<70} {_value(old.ours, old.unit):>10} {_value(new.ours, new.unit):>10} "
            f"{_factor(old.ratio):>8} {_factor(new.ratio):>8} {_factor(change):>6}  {verdict(old, new)}".rstrip()
        )
    lost = [row.name for row in a.comparisons if row.name not in known]
    lines += [f"only in A: {name}" for name in lost]
    lines += [f"only in B: {name}" for name in known if name not in {row.name for row in a.comparisons}]
    return "\n".join(lines) + "\n"


def verdict(old: Comparison, new: Comparison) -> str:
    """``SLOWER`` or ``faster`` if the rounds of both runs do not overlap and their medians differ enough, or nothing.

    Where a run has few rounds the medians alone decide, and must differ more.
    """
    if not old.ratios or not new.ratios:
        return ""
    few = min(len(old.ratios), len(new.ratios)) < FEW_ROUNDS
    apart = LEAST_CHANGE_OF_FEW if few else LEAST_CHANGE
    before, after = statistics.median(old.ratios), statistics.median(new.ratios)
    if before > apart * after and (few or min(old.ratios) > max(new.ratios)):
        return "SLOWER"
    if after > apart * before and (few or min(new.ratios) > max(old.ratios)):
        return "faster"
    return ""


def _hardware(run: Run) -> Sequence[Any]:
    machine = run.provenance["machine"]
    return [machine["processor"], machine["cores"], machine["gpu"]]
