"""Two records side by side: which of their differences are real."""

from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.evaluation.significance import LEVEL, Difference, holm
from nowag_exp.records.pairing import NOISE_FLOOR, Measured, compare, is_better
from nowag_exp.records.record import RunRecord, load_record


@dataclass(frozen=True)
class Line:
    """One metric of both records.

    Attributes:
        a: of the first.
        b: of the second.
        found: the paired test; ``None`` if there are too few windows.
        p_value: after Holm's adjustment over all lines of the comparison.
    """

    a: Metric
    b: Metric
    found: Difference | None
    p_value: float | None

    @property
    def is_real(self) -> bool:
        """Whether the difference is significant."""
        return self.p_value is not None and self.p_value < LEVEL


def find_record(results: Path, name: str) -> tuple[Path, RunRecord]:
    """A record by its file, or by the first digits of its fingerprint; and the results folder that it is in.

    Raises:
        RequestError: if there is none, or more than one.
    """
    if name.endswith(".json"):
        path = Path(name)
        if not path.is_file():
            raise RequestError(f"{name}: no such file; give a record's file, or its fingerprint")
        # The items lie beside the record, not beside a link to it.
        path = path.resolve() if path.is_symlink() else path.absolute()
        return path.parent.parent, load_record(path)
    found = [path for path in sorted((results / "runs").glob("*.json")) if name and path.name.startswith(name)]
    if len(found) != 1:
        many = (
            f"{len(found)} records of {results / 'runs'} begin with it" if found else f"no record in {results / 'runs'}"
        )
        raise RequestError(
            f"{name}: {many}; give a fingerprint (last column of: nowag-exp table --format csv), its first digits, or "
            "a record's file, and paths.results=DIR if it is elsewhere"
        )
    return results, load_record(found[0])


def compare_records(a: tuple[Path, RunRecord], b: tuple[Path, RunRecord]) -> tuple[list[Line], list[str]]:
    """Every metric that both have on the same tokens, tested; and why others were left out.

    Raises:
        RequestError: if there is none.
    """
    (_, first), (_, second) = a, b
    theirs = {
        (metric.name, metric.protocol): metric for metric in second.metrics if not metric.name.startswith(NOISE_FLOOR)
    }
    pairs, left_out = [], []
    for metric in first.metrics:
        if metric.name.startswith(NOISE_FLOOR):
            continue  # Of the machine's arithmetic, not of the model.
        other = theirs.pop((metric.name, metric.protocol), None)
        if other is None:
            left_out.append(f"{metric.name} {metric.protocol}: only A has it")
        elif other.token_hash != metric.token_hash:
            left_out.append(f"{metric.name} {metric.protocol}: measured on different tokens, so not comparable")
        else:
            pairs.append((metric, other))
    left_out += [f"{name} {protocol}: only B has it" for name, protocol in theirs]
    if not pairs:
        raise RequestError(f"nothing to compare: {'; '.join(left_out) or 'neither record has a metric'}")
    found = [compare(Measured(a[0], [first], [x]), Measured(b[0], [second], [y])) for x, y in pairs]
    adjusted = iter(holm([difference.p_value for difference in found if difference]))
    lines = [Line(x, y, test, next(adjusted) if test else None) for (x, y), test in zip(pairs, found, strict=True)]
    return lines, left_out


def describe(record: RunRecord) -> str:
    """One line: ``llama wanda 2:4, dense activations, wiki_sample 8 x 512, seed 0 (b2c4...)``."""
    label = record.labels
    calibration = f"{label.calibration} {label.n_sequences} x {label.context_length}" if label.calibration else None
    seed = None if label.seed is None else f"seed {label.seed}"
    activations = f"{label.propagate} activations" if label.propagate else None
    parts = [label.settings, activations, calibration, seed]
    return f"{label.model} {label.method} {', '.join(filter(None, parts))}".rstrip() + f" ({record.fingerprint})"


def render_comparison(a: RunRecord, b: RunRecord, lines: list[Line], left_out: list[str]) -> str:
    """As text that ends in a line break."""
    return f"A: {describe(a)}\nB: {describe(b)}\n\n{render_lines(a, b, lines, left_out)}\n"


def render_lines(a: RunRecord, b: RunRecord, lines: list[Line], left_out: list[str]) -> str:
    """The table of a comparison, and what has to be known to read it."""
    rows = [
        [
            f"{line.a.name} {line.a.protocol}",
            f"{line.a.value:.4g}",
            f"{line.b.value:.4g}",
            "-" if line.found is None else f"{line.found.value:+.3g} ± {line.found.standard_error:.2g}",
            str(line.a.n),
            "-" if line.found is None else line.found.test,
            "-" if line.p_value is None else f"{line.p_value:.2g}",
            _verdict(line),
        ]
        for line in lines
    ]
    headers = ["", "A", "B", "B - A", "n", "test", "p", ""]
    table = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    notes = [
        "B - A is a mean over the same windows or items (of perplexity: of its logarithm), ± its standard error.",
        f"p is adjusted for the number of lines (Holm); a difference is called real below {LEVEL}.",
        *left_out,
    ]
    if a.identity["model"] != b.identity["model"]:
        notes.append(
            "A and B are of different models or dtypes: kl, top1_agreement and flips are each against its own."
        )
    return "\n".join([table, "", *notes])


def _verdict(line: Line) -> str:
    if line.found is None:
        return "too few windows to tell"
    if not line.is_real:
        return "no real difference"
    return "B is better" if is_better(line.a.name, line.b.value, line.a.value) else "A is better"
