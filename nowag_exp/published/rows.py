"""Published values as they stand in ``results/published/*.csv``: one row a value, with its setting and its source."""

import csv
import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from nowag_exp.errors import RequestError
from nowag_exp.layout import folder

COLUMNS = (
    "paper",
    "table",
    "model",
    "method",
    "finetuned",
    "bits",
    "sparsity_pattern",
    "context_length",
    "calibration",
    "metric",
    "dataset_or_task",
    "value",
    "source",
)
MAY_BE_EMPTY = ("bits", "context_length", "calibration")


@dataclass(frozen=True)
class Published:
    """One value, and what its source says of how it was measured.

    Attributes:
        paper: with its arXiv number.
        table: where in the paper; also holds what no other column does: group sizes, acc or acc_norm, schemes.
        model: named as in ``conf/model``, if it is there.
        method: named as in ``conf/method``, if it is there.
        finetuned: ``no`` or the kind of tuning.
        bits: of a weight, as printed; nominal for integer grids.
        sparsity_pattern: ``none``, ``unstructured_50`` (percent removed) or ``N:M``.
        context_length: of the evaluation, tokens; ``None`` if not stated or not applicable.
        calibration: as stated, ``c4 128x4096`` (sequences x tokens); empty if not stated or not applicable.
        metric: ``perplexity``, ``accuracy`` (percent), ``seconds``, ``gigabytes``; of our own runs also ``kl`` (nats)
            and ``top1_agreement`` (a share).
        task: data set or task.
        value: as a number.
        rounding: half a unit of its last printed digit.
        source: where it was read.
        file: name of the CSV.
        line: in it.
    """

    paper: str
    table: str
    model: str
    method: str
    finetuned: str
    bits: float | None
    sparsity_pattern: str
    context_length: int | None
    calibration: str
    metric: str
    task: str
    value: float
    rounding: float
    source: str
    file: str
    line: int


def published_folder() -> Path:
    """Where the CSV files are: in a checkout, or inside an installed package."""
    return folder("results/published")


def load_published() -> list[Published]:
    """All values from papers, by file name and line.

    Raises:
        RequestError: as :func:`load_csv`.
    """
    return [row for path in sorted(published_folder().glob("*.csv")) for row in load_csv(path)]


def load_csv(path: Path) -> list[Published]:
    """The values of one file.

    Raises:
        RequestError: on a missing or unknown column, a bad number or an empty cell, by file, line and column.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            wrong = [f"misses the column {name}" for name in COLUMNS if name not in header]
            wrong += [f"has an unknown column {name}" for name in header if name not in COLUMNS]
            if wrong:
                raise RequestError(f"{path}, line 1: {wrong[0]}; the columns are: {', '.join(COLUMNS)}")
            return [_row(cells, path, reader.line_num) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error


def _row(cells: dict[str, str | None], path: Path, line: int) -> Published:
    where = f"{path}, line {line}"
    if None in cells or None in cells.values():
        raise RequestError(f"{where}: must have {len(COLUMNS)} cells; quote a cell that holds a comma")
    texts = {name: (cells[name] or "").strip() for name in COLUMNS}
    for name, text in texts.items():
        if not text and name not in MAY_BE_EMPTY:
            raise RequestError(f"{where}, column {name}: is empty; every value needs its {name}")
    numbers = {name: _number(texts[name], f"{where}, column {name}") for name in ("bits", "context_length", "value")}
    value, context = numbers["value"], numbers["context_length"]
    assert value is not None, "an empty value was refused above"
    if context is not None and (context <= 0 or context % 1):
        raise RequestError(f"{where}, column context_length: must be a whole number of tokens; got {context}")
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int), "_number lets finite numbers through only"
    return Published(
        paper=texts["paper"],
        table=texts["table"],
        model=texts["model"],
        method=texts["method"],
        finetuned=texts["finetuned"],
        bits=None if numbers["bits"] is None else float(numbers["bits"]),
        sparsity_pattern=texts["sparsity_pattern"],
        context_length=None if context is None else int(context),
        calibration=texts["calibration"],
        metric=texts["metric"],
        task=texts["dataset_or_task"],
        value=float(value),
        rounding=float(Decimal(5).scaleb(exponent - 1)),
        source=texts["source"],
        file=path.name,
        line=line,
    )


def _number(text: str, where: str) -> Decimal | None:
    """A number, its printed digits kept; ``None`` for an empty cell."""
    if not text:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not math.isfinite(number):
        raise RequestError(f"{where}: must be a number; got {text!r}")
    return number
