"""Two records side by side: which of their differences are shown, of these two runs and of their settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tabulate import tabulate

from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.evaluation.significance import LEVEL, Difference, holm
from nowag_exp.records.pairing import (
    NOISE_FLOOR,
    Measured,
    compare_strata,
    is_better,
    one_a_seed,
    seeds_of,
    setting_key,
    weigh,
)
from nowag_exp.records.record import RunRecord, load_record, load_records

Found = tuple[Path, RunRecord]
"""A record, and the results folder that it is in."""


@dataclass(frozen=True)
class Line:
    """One metric of both sides.

    Attributes:
        a: of the first; over several seeds, with their mean as its value.
        b: of the second; likewise.
        found: the test; ``None`` if there are too few windows.
        p_value: after Holm's adjustment over all lines of the table.
        smallest: the smallest difference that the test would have shown, whatever the other lines say; ``None`` if
            none could be.
    """

    a: Metric
    b: Metric
    found: Difference | None
    p_value: float | None
    smallest: float | None

    @property
    def is_shown(self) -> bool:
        """Whether there is a difference, as far as the test can tell."""
        return self.p_value is not None and self.p_value < LEVEL


@dataclass(frozen=True)
class Comparison:
    """What may be said of two records.

    Attributes:
        runs: the paired tests of these two models.
        settings: tests over all seeds that are recorded; empty where nothing is drawn, or for no metric these can be
            made.
        untested: why they cannot; empty if they can.
        seeds: of each side, in words; empty where nothing is drawn at random.
        left_out: metrics that could not be compared, and why.
    """

    runs: list[Line]
    settings: list[Line]
    untested: str
    seeds: tuple[str, str]
    left_out: list[str]

    @property
    def summary(self) -> str:
        """One line: how many metrics differ between these two runs, and between the settings."""
        runs = f"these two runs: {_count(self.runs)}"
        if self.untested:
            return f"{runs}; the settings: not shown, {self.untested}"
        if not any(self.seeds):
            return f"{runs}; the settings: the same, since nothing in them is drawn at random"
        return f"{runs}; the settings, over seeds: {_count(self.settings)}"


def _count(lines: Sequence[Line]) -> str:
    n_shown = sum(line.is_shown for line in lines)
    return f"{n_shown} of {len(lines)} metrics differ" if n_shown else "no difference shown"


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


def compare_records(a: Found, b: Found) -> Comparison:
    """Test every metric that both have on the same tokens, and say why others are left out.

    The settings are compared over all records of both folders that differ from A or B in their seeds alone.

    Raises:
        RequestError: if they have no metric on the same tokens.
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
    sides = [(Measured(a[0], [first], [x]), Measured(b[0], [second], [y])) for x, y in pairs]
    found = [compare_strata(x.strata(), y.strata()) for x, y in sides]
    recorded = {results: load_records(results) for results in {a[0], b[0]}}
    siblings = [_siblings(record, recorded[results]) for results, record in (a, b)]
    over_all = [(_with_seeds(a, siblings[0], x), _with_seeds(b, siblings[1], y)) for x, y in pairs]
    weighed = [(both, weigh(*both)) for both in over_all]
    reasons = [evidence.untested if evidence else "too few windows" for _, evidence in weighed]
    tested = [(both, evidence.settings) for both, evidence in weighed if evidence and evidence.settings]
    if tested:
        # A metric may have been measured with fewer seeds than the others.
        named = zip(pairs, reasons, strict=True)
        left_out += [
            f"{x.name} {x.protocol}: not shown of the settings, {reason}" for (x, _), reason in named if reason
        ]
    both = tested[0][0] if tested else over_all[0]
    seeds = _seeds(both[0]), _seeds(both[1])
    return Comparison(
        runs=_lines(sides, found),
        settings=_lines([both for both, _ in tested], [test for _, test in tested]) if any(seeds) else [],
        untested="" if tested else reasons[0],
        seeds=seeds,
        left_out=left_out,
    )


def _siblings(record: RunRecord, recorded: list[RunRecord]) -> list[RunRecord]:
    """The record, and others that differ from it in seeds, or in what was measured."""
    key = setting_key(record)
    return [record, *(other for other in recorded if setting_key(other) == key)]


def _with_seeds(found: Found, siblings: list[RunRecord], metric: Metric) -> Measured:
    pairs = one_a_seed(siblings, metric)
    return Measured(found[0], [record for record, _ in pairs], [own for _, own in pairs])


def _seeds(side: Measured) -> str:
    """``0, 1/0``: those of calibration and method where they are not the same."""
    drawn = sorted(seeds_of(record) for record in side.records)
    return ", ".join("/".join(map(str, dict.fromkeys(seeds))) for seeds in drawn if seeds)


def _lines(pairs: Sequence[tuple[Measured, Measured]], found: Sequence[Difference | None]) -> list[Line]:
    known = [difference for difference in found if difference]
    adjusted = iter(holm([difference.p_value for difference in known]))
    return [
        Line(
            replace(a.metrics[0], value=a.value),
            replace(b.metrics[0], value=b.value),
            difference,
            next(adjusted) if difference else None,
            difference.smallest_shown(LEVEL / len(known)) if difference else None,
        )
        for (a, b), difference in zip(pairs, found, strict=True)
    ]


def describe(record: RunRecord) -> str:
    """One line: ``llama wanda 2:4, dense activations, wiki_sample 8 x 512, seed 0 (b2c4...)``."""
    label = record.labels
    calibration = f"{label.calibration} {label.n_sequences} x {label.context_length}" if label.calibration else None
    seed = None if label.seed is None else f"seed {label.seed}"
    activations = f"{label.propagate} activations" if label.propagate else None
    parts = [label.settings, activations, calibration, seed]
    return f"{label.model} {label.method} {', '.join(filter(None, parts))}".rstrip() + f" ({record.fingerprint})"


def render_comparison(a: RunRecord, b: RunRecord, found: Comparison) -> str:
    """As text that ends in a line break."""
    return f"A: {describe(a)}\nB: {describe(b)}\n\n{render_claims(a, b, found)}\n"


def render_claims(a: RunRecord, b: RunRecord, found: Comparison) -> str:
    """The tables of a comparison, and what has to be known to read them."""
    parts = [f"these two runs\n{_table(found.runs)}"]
    if found.untested:
        parts.append(f"the settings: not shown, {found.untested}. {_remedy(found)}")
    elif not any(found.seeds):
        parts.append("the settings: nothing is drawn at random in either, so what holds for these runs holds for them.")
    else:
        of_side = [f"{name}: {seeds or 'draws nothing'}" for name, seeds in zip("AB", found.seeds, strict=True)]
        parts.append(f"the settings, over all recorded seeds ({'; '.join(of_side)})\n{_table(found.settings)}")
    notes = [
        "B - A is a mean over the same windows or items (of perplexity: of its logarithm), ± its standard error.",
        f"p is adjusted for the number of lines (Holm); a difference is shown below {LEVEL}. shown from: the smallest "
        "one that this test would have shown.",
        "What each table may claim: docs/how-sure.md.",
        *found.left_out,
    ]
    if a.identity["model"] != b.identity["model"]:
        notes.append(
            "A and B are of different models or dtypes: kl, top1_agreement and flips are each against its own."
        )
    return "\n\n".join([*parts, "\n".join(notes)])


def _remedy(found: Comparison) -> str:
    if "one setting" in found.untested:
        return "What differs is what chance does."
    if "windows" in found.untested:
        return "Measure more of them."
    return "Run both with two more seeds, three in all, and compare again."


def _table(lines: Sequence[Line]) -> str:
    rows = [
        [
            f"{line.a.name} {line.a.protocol}",
            f"{line.a.value:.4g}",
            f"{line.b.value:.4g}",
            "-" if line.found is None else f"{line.found.value:+.3g} ± {line.found.standard_error:.2g}",
            "-" if line.smallest is None else f"{line.smallest:.2g}",
            str(line.a.n),
            "-" if line.found is None else line.found.test,
            "-" if line.p_value is None else f"{line.p_value:.2g}",
            _verdict(line),
        ]
        for line in lines
    ]
    headers = ["", "A", "B", "B - A", "shown from", "n", "test", "p", ""]
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)


def _verdict(line: Line) -> str:
    if line.found is None:
        return "too few windows to tell"
    if line.found.value == line.found.standard_error == 0:
        return "the same"
    if not line.is_shown:
        return "not shown"
    return "B is better" if is_better(line.a.name, line.found.value, 0) else "A is better"
