"""Plans and verdicts as text."""

import shlex
from collections import Counter

from tabulate import tabulate

from nowag_exp.published import Published
from nowag_exp.published.tables import Table
from nowag_exp.reproduce.plan import Job, Plan
from nowag_exp.reproduce.verdict import Line, Verdict

PERCENT = ("accuracy", "top1_agreement")
"""Metrics that are shown in percent."""


def render_head(table: Table, plan: Plan) -> str:
    """What the table is, and what of it can be run."""
    lines = [f"{table.name}: {table.headline}"]
    lines += [f"note: {' '.join(note.split())}" for note in table.notes]
    if not table.rows:
        return "\n".join([*lines, "no published value was found, so there is nothing to reproduce"])
    n_rows = plan.n_values + len(plan.left_out)
    lines.append(f"{n_rows} published values, {plan.n_values} of them measured by {len(plan.jobs)} experiments a seed")
    for reason, count in Counter(reason for _, reason in plan.left_out).items():
        lines.append(f"not run, {count} value{'s' if count > 1 else ''}: {reason}")
    return "\n".join(lines)


def render_plan(jobs: list[tuple[Job, bool]]) -> str:
    """Each experiment: whether it is recorded, the published values it measures, and the command that runs it alone."""
    lines = []
    for number, (job, recorded) in enumerate(jobs, start=1):
        lines.append(f"{number}. {'recorded' if recorded else 'to run'}; published: {_values(job.rows)}")
        lines.append(f"   nowag-exp run {shlex.join(job.overrides)}")
    return "\n".join(lines)


def _values(rows: list[Published]) -> str:
    shown = Counter(f"{row.metric} {row.task} {row.value:g}" for row in rows)
    parts = [text if count == 1 else f"{text} (x{count})" for text, count in shown.items()]
    more = [f"and {len(parts) - 4} more"] if len(parts) > 5 else []
    return ", ".join([*(parts[:4] if more else parts), *more])


def render_verdicts(lines: list[Line]) -> str:
    """A row a value; what is said of it below, once however many values it concerns."""
    remarks: dict[tuple[str, ...], int] = {}
    rows = []
    for line in lines:
        mark = ""
        if line.remarks:
            mark = f" [{remarks.setdefault(line.remarks, len(remarks) + 1)}]"
        rows.append((*_subject(line.row), *_numbers(line), f"{line.verdict.value}{mark}"))
    head = ("model", "method", "setting", "metric", "ours", "±", "over seeds", "published", "difference", "verdict")
    table = tabulate(rows, head, colalign=["left"] * 4 + ["right"] * 5 + ["left"], disable_numparse=True)
    notes = [f"[{number}] {'; '.join(texts)}" for texts, number in remarks.items()]
    counts = Counter(line.verdict for line in lines)
    total = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    return "\n".join([table, *notes, total])


def _subject(row: Published) -> tuple[str, str, str, str]:
    context = f"@{row.context_length}" if row.context_length else ""
    setting = (
        ""
        if row.sparsity_pattern == "none"
        else row.sparsity_pattern.replace("unstructured_", "")
        + ("%" if row.sparsity_pattern.startswith("unstructured") else "")
    )
    if not setting and row.method != "dense" and row.bits is not None:
        setting = f"{row.bits:g} bits"
    if "group" in row.table or "A16g" in row.table or row.method == "nowag_vq":
        setting = f"{setting}, {row.table}"
    return row.model, row.method, setting, f"{row.metric} {row.task}{context}"


def _numbers(line: Line) -> tuple[str, str, str, str, str]:
    """Ours, its standard error, its spread over seeds, published, difference; the last only if they are compared."""
    scale = 100 if line.row.metric in PERCENT else 1
    unit = "%" if scale == 100 else ""

    def shown(value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{scale * value:{sign}.4g}{unit}"

    if line.measured is None:
        return "", "", "", shown(line.published), ""
    difference = line.measured.value - line.published if line.tolerance is not None else None
    ours = (line.measured.value, line.measured.standard_error, line.measured.spread)
    return (*map(shown, ours), shown(line.published), shown(difference, "+"))  # type: ignore[return-value]
