"""Tables to reproduce: ``results/published/tables/NAME.yaml``, each a selection of published rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nowag_exp.errors import RequestError
from nowag_exp.layout import among, headline
from nowag_exp.published.rows import Published, load_csv, published_folder
from nowag_exp.yamls import read_yaml

KEYS = ("rows", "notes")
SELECTABLE = ("paper", "table", "model", "method", "finetuned", "sparsity_pattern", "calibration", "metric", "task")
"""Columns by which rows are selected."""


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        headline: what it is, in a line.
        rows: its values, in the order of the file; none if no value was found.
        notes: what to know when reading it.
        path: of its only CSV if that is not among the papers': a table of our own.
    """

    name: str
    headline: str
    rows: list[Published]
    notes: list[str]
    own: Path | None


def tables() -> dict[str, str]:
    """All tables and their headlines."""
    return {path.stem: headline(path) for path in sorted((published_folder() / "tables").glob("*.yaml"))}


def load_table(name: str) -> Table:
    """One table.

    Raises:
        RequestError: if there is none of this name, its file is not one, or it selects nothing.
    """
    known = tables()
    if name not in known:
        raise RequestError(f"table {name}: no such table" + among(name, list(known)))
    path = published_folder() / "tables" / f"{name}.yaml"
    content = read_yaml(path, str(path))
    if not isinstance(content, Mapping) or sorted(content) != sorted(KEYS):
        raise RequestError(f"{path}: must have the keys {' and '.join(KEYS)}, and no other")
    rows: list[Published] = []
    own = None
    for index, selection in enumerate(content["rows"] or []):
        where = f"{path}, rows[{index}]"
        if not isinstance(selection, Mapping) or "file" not in selection:
            raise RequestError(f"{where}: must name a CSV as file, and may name values by column")
        source = (published_folder() / str(selection["file"])).resolve()
        if source.parent != published_folder().resolve():
            own = source
        wanted = {key: value for key, value in selection.items() if key != "file"}
        rows += select(load_csv(source), wanted, where)
    return Table(name, known[name], rows, [str(note) for note in content["notes"] or []], own)


def select(rows: list[Published], wanted: Mapping[str, Any], where: str) -> list[Published]:
    """The rows with these values: of each column one, or any of a list.

    Raises:
        RequestError: on an unknown column, or a value that no row has, since it would silently select nothing.
    """
    for column, choice in wanted.items():
        if column not in SELECTABLE:
            raise RequestError(f"{where}: {column}: cannot be selected by" + among(str(column), list(SELECTABLE)))
        values = [str(value) for value in (choice if isinstance(choice, list) else [choice])]
        there = {getattr(row, column): None for row in rows}
        for value in values:
            if value not in there:
                raise RequestError(f"{where}: {column}: no row has {value}" + among(value, list(there)))
        rows = [row for row in rows if getattr(row, column) in values]
    return rows
