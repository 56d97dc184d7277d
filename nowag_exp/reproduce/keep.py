"""Write what was measured as the values of a table of our own."""

import csv
import io
from pathlib import Path

from nowag_exp.errors import NowagError
from nowag_exp.output import write
from nowag_exp.published.rows import COLUMNS
from nowag_exp.records.record import RunRecord
from nowag_exp.reproduce.verdict import Line

DIGITS = 7
"""Significant digits: more than two machines share."""


def keep(path: Path, lines: list[Line]) -> None:
    """Give each row of a CSV the value that was measured, and its source: date, versions, kind of machine.

    Raises:
        NowagError: if a row was not measured; nothing is written then.
    """
    measured = {line.row.line: line.measured for line in lines if line.measured is not None}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = [(reader.line_num, cells) for cells in reader]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, cells in rows:
        if number not in measured:
            raise NowagError(f"{path}, line {number}: was not measured, so nothing was written")
        found = measured[number]
        value = f"{found.value:#.{DIGITS}g}"
        writer.writerow({**cells, "value": value, "source": source_of(found.records[0])})
    write(path, text.getvalue())


def source_of(record: RunRecord) -> str:
    """When and with what a record was made; names nobody."""
    made = record.provenance
    machine = made["machine"]
    where = machine["gpu"] or f"{machine['processor']}, {made['threads']} threads"
    libraries = " ".join(f"{name} {made['libraries'][name]}" for name in ("torch", "transformers"))
    return f"own run of {record.costs.finished_at[:10]}: nowag_exp {made['nowag_exp']}, {libraries}, on {where}"
