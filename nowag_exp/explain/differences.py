"""What differs between two records, from the records alone."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nowag_exp.calibration import CompressedLinear
from nowag_exp.errors import RequestError
from nowag_exp.evaluation import Metric
from nowag_exp.formats.beside import changes_numbers
from nowag_exp.ledger import Irregularity
from nowag_exp.records.comparison import Comparison, compare_records
from nowag_exp.records.pairing import NOISE_FLOOR, seeds_of, setting_key
from nowag_exp.records.record import RunRecord

OUR_VERSIONS = {"version", "statistics", "drawing", "conversion", "items", "task_version"}
"""Names in an identity that stand for what our code does."""

ABSENT = "-"
"""Shown where only one of two records has a key."""

MOST_LINEARS = 5


@dataclass(frozen=True)
class Change:
    """One thing that is not the same in both.

    Attributes:
        key: where it stands, with dots.
        a: in the first; ``ABSENT`` if it is not there.
        b: likewise.
    """

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class LedgerChange:
    """Irregularities of one kind that only one record has, or has in another number.

    Attributes:
        kind: of the irregularities.
        only_a: places that only the first has.
        only_b: likewise.
        counts: places that both have, in different numbers.
    """

    kind: str
    only_a: list[str]
    only_b: list[str]
    counts: list[Change]


@dataclass(frozen=True)
class Explanation:
    """All that differs.

    Attributes:
        a: the first record.
        b: the second.
        settings: config keys that belong to the identity, and those that name the data where these differ.
        data: hashes of what went in.
        our_versions: of our code, where the class is the same.
        provenance: libraries, commit, machine and threads.
        ledger: by kind.
        compression: sizes.
        linears: those whose relative error differs most.
        no_number: config keys that differ and change no number by themselves.
        one_sided: keys that only one of two classes has, or depends on, by the part of the config that they are of.
        comparison: what the tests say of the two runs, and of their settings; ``None`` if no metric can be tested.
        left_out: metrics that cannot, and why.
        same_numbers: whether all metrics, window by window and item by item, are the same.
        one_record: whether both are the same record of the same results folder.
    """

    a: RunRecord
    b: RunRecord
    settings: list[Change]
    data: list[Change]
    our_versions: list[Change]
    provenance: list[Change]
    ledger: list[LedgerChange]
    compression: list[Change]
    linears: list[Change]
    no_number: list[Change]
    one_sided: dict[str, list[Change]]
    comparison: Comparison | None
    left_out: list[str]
    same_numbers: bool
    one_record: bool

    @property
    def conclusion(self) -> str:
        """One line: one record; identical; the same inputs and other numbers; or what was not the same."""
        if self.one_record:
            return f"A and B are one record, {self.a.fingerprint}: there is nothing to explain"
        if self.settings:
            also = _also(("versions of our code", self.our_versions))
            keys = [setting_key(record, with_evaluation=True) for record in (self.a, self.b)]
            of_chance = keys[0] == keys[1] and seeds_of(self.a) != seeds_of(self.b)
            name = "the same settings with other seeds" if of_chance else "different settings"
            return f"{name}: {listed(self.settings)}{also}; {self._numbers()}"
        if self.our_versions:
            return (
                f"the same settings in different versions of our code: {listed(self.our_versions)}"
                f"{_also(('data', self.data))}; {self._numbers()}"
            )
        if self.data:
            return f"the same settings on different data: {listed(self.data)}; {self._numbers()}"
        if self.same_numbers:
            though = f", although these differ: {listed(self.provenance)}" if self.provenance else ""
            return f"identical: the same inputs gave the same numbers{though}"
        if self.provenance:
            return f"numerics: the same inputs gave other numbers; what differs is {listed(self.provenance)}"
        return (
            "numerics: the same inputs gave other numbers, and nothing that is recorded of versions and machine "
            "differs: something is not deterministic, or a record was changed"
        )

    def _numbers(self) -> str:
        if self.comparison is None:
            return "no metric could be tested, for the reason under numbers"
        return "the numbers are the same" if self.same_numbers else self.comparison.summary


def explain(a: tuple[Path, RunRecord], b: tuple[Path, RunRecord]) -> Explanation:
    """Hold two records, each with its results folder, against one another."""
    (folder, first), (other_folder, second) = a, b
    found = _Inputs()
    ours, theirs = _identity(first), _identity(second)
    settings, theirs_settings = _config(first), _config(second)
    for part in dict.fromkeys([*ours, *theirs, *settings, *theirs_settings]):
        found.add(part, ours.get(part), theirs.get(part), settings.get(part, {}), theirs_settings.get(part, {}))
    # A local model's files are in its identity, too.
    of_model = [] if any(change.key.startswith("model.") for change in found.data) else _model_files(first, second)
    try:
        comparison, left_out = compare_records(a, b), []
    except RequestError as error:
        comparison, left_out = None, [str(error)]
    return Explanation(
        a=first,
        b=second,
        settings=found.settings,
        data=found.data + of_model + _tokens(first, second),
        our_versions=found.our_versions,
        provenance=changes(flatten(first.provenance), flatten(second.provenance)),
        ledger=_ledger(first.irregularities, second.irregularities),
        compression=changes(_sizes(first), _sizes(second)),
        linears=_linears(first.compression.linears, second.compression.linears),
        no_number=found.no_number,
        one_sided=found.one_sided,
        comparison=comparison,
        left_out=left_out,
        same_numbers=_numbers(first) == _numbers(second) and first.items_sha256 == second.items_sha256,
        one_record=folder.resolve() == other_folder.resolve() and first == second,
    )


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key; a list is a leaf, unless it holds groups of settings."""
    if isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        node = {str(index): item for index, item in enumerate(node)}
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """The keys whose values are not the same, in the order of the first, then of the second."""
    keys = dict.fromkeys([*a, *b])
    return [
        Change(key, a.get(key, ABSENT), b.get(key, ABSENT)) for key in keys if a.get(key, ABSENT) != b.get(key, ABSENT)
    ]


def listed(found: Sequence[Change], most: int = 4) -> str:
    """``method.pattern (2:4, unstructured), seed (0, 1) and 3 more``."""
    parts = [f"{change.key} ({shown(change.a)}, {shown(change.b)})" for change in found[:most]]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(parts) + more


def shown(value: Any) -> str:
    """A value in a few characters; a hash by its first ones."""
    text = "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    if re.fullmatch(r"[0-9a-f]{32,}", text):
        return text[:12]
    return text if len(text) <= 40 else f"{text[:37]}..."


def _also(part: tuple[str, list[Change]]) -> str:
    name, found = part
    return f"; and different {name}: {listed(found)}" if found else ""


@dataclass
class _Inputs:
    """What differs of identities and configs, part by part."""

    settings: list[Change] = field(default_factory=list)
    data: list[Change] = field(default_factory=list)
    our_versions: list[Change] = field(default_factory=list)
    no_number: list[Change] = field(default_factory=list)
    one_sided: dict[str, list[Change]] = field(default_factory=dict)

    def add(
        self,
        part: str,
        a: dict[str, Any] | None,
        b: dict[str, Any] | None,
        config_a: dict[str, Any],
        config_b: dict[str, Any],
    ) -> None:
        """Sort the differences of one part of the config; its identity is ``None`` where no number depends on it.

        A path is not part of an identity, the content found there is: the path counts as a setting if that differs.
        """
        if (a is None) != (b is None):
            self.settings.append(Change(part, *("not used" if node is None else "used" for node in (a, b))))
            return
        a, b = a or {}, b or {}
        # Recorded only of the dense model, so it says again which of the two is dense.
        follows = (
            {"noise_floor_windows"} if None in (a.get("noise_floor_windows"), b.get("noise_floor_windows")) else set()
        )
        other_class = a.get("class") != b.get("class")
        other_data = False
        for change in changes(a, b):
            named = Change(f"{part}.{change.key}" if change.key else part, change.a, change.b)
            if change.key.rpartition(".")[2] in OUR_VERSIONS:
                if not other_class and ABSENT not in (change.a, change.b):
                    self.our_versions.append(named)
            elif _is_of_data(part, change.key):
                other_data = True
                self.data.append(named)
            elif other_class and ABSENT in (change.a, change.b):
                self.one_sided.setdefault(part, []).append(named)
            elif change.key not in follows and not (other_class and change.key == "name"):
                self.settings.append(named)
        fixed = {key.partition(".")[0] for key in [*a, *b]}
        for change in changes(config_a, config_b):
            named = Change(f"{part}.{change.key}" if part else change.key, change.a, change.b)
            if change.key.partition(".")[0] in fixed:
                if a.get(change.key, ABSENT) != b.get(change.key, ABSENT) and change.key not in follows:
                    continue  # It is sorted already.
            elif change.key == "_target_":
                continue  # The identity holds the class.
            elif other_data:
                self.settings.append(named)
                continue
            if other_class and ABSENT in (change.a, change.b):
                self.one_sided.setdefault(part, []).append(named)
            else:
                self.no_number.append(named)


def _is_of_data(part: str, key: str) -> bool:
    """Whether it is a hash or commit of what was read."""
    names = key.split(".")
    return part != "method" and ("sha256" in names[-1] or names[-1] == "commit" or "files" in names[:-1])


def _identity(record: RunRecord) -> dict[str, dict[str, Any]]:
    """The leaves of the identity by part of the config; of a text, beside those of how it is drawn, as there."""
    evaluation = dict(record.identity["evaluation"])
    measurements = {**evaluation.pop("perplexity", {}), **evaluation.pop("zero_shot", {})}
    parts = {name: record.identity[name] for name in ("model", "calibration", "method")}
    nodes = {**parts, "evaluation": evaluation, **measurements}
    return {part: {_beside(key): leaf for key, leaf in flatten(node).items()} for part, node in nodes.items() if node}


def _beside(key: str) -> str:
    return key.removeprefix("text.")


def _config(record: RunRecord) -> dict[str, dict[str, Any]]:
    """The leaves of the config by part; each measurement is one, and what stands above all parts is in ``""``."""
    found: dict[str, dict[str, Any]] = {}
    for name, node in record.config.items():
        if name == "evaluation":
            for key, value in node.items():
                if isinstance(value, Mapping):
                    found[f"evaluation.{key}"] = flatten(value)
                else:
                    found.setdefault("evaluation", {})[key] = value
        elif isinstance(node, Mapping):
            found[name] = flatten(node)
        else:
            found.setdefault("", {})[name] = node
    return found


def _model_files(a: RunRecord, b: RunRecord) -> list[Change]:
    return [
        Change(f"model file {change.key}", change.a, change.b)
        for change in changes(a.inputs.model_files, b.inputs.model_files)
        if changes_numbers(change.key)
    ]


def _tokens(a: RunRecord, b: RunRecord) -> list[Change]:
    """Hashes of the tokens that both calibrated or measured on, where they differ."""
    found = {}
    of_calibration = a.inputs.calibration_token_hash, b.inputs.calibration_token_hash
    if None not in of_calibration and of_calibration[0] != of_calibration[1]:
        found["calibration tokens"] = of_calibration
    theirs = {(metric.name, metric.protocol): metric for metric in b.metrics}
    for metric in a.metrics:
        other = theirs.get((metric.name, metric.protocol))
        if other is not None and other.token_hash != metric.token_hash and not metric.name.startswith(NOISE_FLOOR):
            found[f"tokens of {metric.protocol}"] = metric.token_hash, other.token_hash
    return [Change(key, *hashes) for key, hashes in found.items()]


def _ledger(a: Sequence[Irregularity], b: Sequence[Irregularity]) -> list[LedgerChange]:
    ours, theirs = _counted(a), _counted(b)
    found = []
    for kind in sorted({kind for kind, _, _ in [*ours, *theirs]}):
        mine = {key: count for key, count in ours.items() if key[0] == kind}
        other = {key: count for key, count in theirs.items() if key[0] == kind}
        entry = LedgerChange(
            kind,
            [key[1] for key in mine if key not in other],
            [key[1] for key in other if key not in mine],
            [Change(key[1], mine[key], other[key]) for key in mine if key in other and mine[key] != other[key]],
        )
        if entry.only_a or entry.only_b or entry.counts:
            found.append(entry)
    return found


def _counted(entries: Sequence[Irregularity]) -> Counter[tuple[str, str, str]]:
    """Counts by kind, place and what happened; numbers in the words are the count over again."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for entry in entries:
        counts[(entry.kind, entry.where, re.sub(r"\d+", "", entry.detail))] += entry.count
    return counts


def _sizes(record: RunRecord) -> dict[str, Any]:
    sizes = record.compression
    return {name: getattr(sizes, name) for name in ("sparsity", "bits_per_weight", "n_weights", "n_bytes")}


def _linears(a: Sequence[CompressedLinear], b: Sequence[CompressedLinear]) -> list[Change]:
    """The linears of both whose relative errors differ most, the most first."""
    theirs = {linear.name: linear.relative_error for linear in b}
    both = [
        Change(linear.name, linear.relative_error, theirs[linear.name])
        for linear in a
        if theirs.get(linear.name, linear.relative_error) != linear.relative_error
    ]
    return sorted(both, key=lambda change: -abs(change.b - change.a))[:MOST_LINEARS]


def _numbers(record: RunRecord) -> list[Metric]:
    """What was measured, without what is recorded of how."""
    return [replace(metric, details={}) for metric in record.metrics]
