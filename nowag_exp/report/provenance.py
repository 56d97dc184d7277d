"""What the numbers were made with, and where the records of one table do not agree in it."""

from dataclasses import dataclass
from typing import Any

from nowag_exp.records.record import RunRecord
from nowag_exp.records.wide import Section

MOST_VALUES = 4
LEFT_OUT = ("platform",)
"""Of the machine: says nothing of the numbers that the other entries do not."""


@dataclass(frozen=True)
class Origin:
    """Records that were made with the same versions on machines of one kind.

    Attributes:
        models: of their sections.
        first: when the first of them was finished, ISO 8601.
        last: likewise the last.
    """

    n_records: int
    models: list[str]
    package: str
    commit: str
    python: str
    libraries: str
    machine: str
    first: str
    last: str


def origins(sections: list[Section]) -> list[Origin]:
    """All there are, those of most records first."""
    groups: dict[tuple[tuple[str, str], ...], list[tuple[str, RunRecord]]] = {}
    for section in sections:
        for record in records(section):
            groups.setdefault(tuple(_texts(record.provenance).items()), []).append((section.model, record))
    found = [
        Origin(
            n_records=len(members),
            models=list(dict.fromkeys(model for model, _ in members)),
            first=min(record.costs.finished_at for _, record in members),
            last=max(record.costs.finished_at for _, record in members),
            **dict(texts),
        )
        for texts, members in groups.items()
    ]
    return sorted(found, key=lambda origin: -origin.n_records)


def warnings(section: Section) -> list[str]:
    """A sentence for each thing in which the records of one table differ though the experiments do not ask for it."""
    values: dict[str, dict[str, int]] = {}
    of_section = records(section)
    for record in of_section:
        for key, text in _facts(record.provenance).items():
            values.setdefault(key, {}).setdefault(text, 0)
            values[key][text] += 1
    found = [
        f"{section.model}: its records differ in {key}: {_listed(counts)}."
        for key, counts in values.items()
        if len(counts) > 1
    ]
    n_dirty = sum(bool((record.provenance.get("git") or {}).get("dirty")) for record in of_section)
    if n_dirty:
        found.append(f"{section.model}: {n_dirty} of {len(of_section)} records are of code with uncommitted changes.")
    return found


def records(section: Section) -> list[RunRecord]:
    """All of a section."""
    return [record for row in section.rows for record in row.records]


def _facts(provenance: dict[str, Any]) -> dict[str, str]:
    git, machine = provenance.get("git") or {}, provenance.get("machine") or {}
    return {
        "nowag_exp": str(provenance.get("nowag_exp", "-")),
        "commit": str(git.get("commit", "-"))[:10],
        "python": str(provenance.get("python", "-")),
        **{name: str(version) for name, version in (provenance.get("libraries") or {}).items()},
        **{name: str(value) for name, value in machine.items() if value is not None and name not in LEFT_OUT},
        "threads": str(provenance.get("threads", "-")),
    }


def _texts(provenance: dict[str, Any]) -> dict[str, str]:
    """Package, commit, Python, libraries and machine as a table shows them."""
    facts = _facts(provenance)
    dirty = " with uncommitted changes" if (provenance.get("git") or {}).get("dirty") else ""
    libraries = ", ".join(f"{name} {version}" for name, version in (provenance.get("libraries") or {}).items())
    machine = [facts.get("gpu"), facts.get("processor"), f"{facts['cores']} cores" if "cores" in facts else None]
    machine += [f"{facts['threads']} threads", facts.get("device")]
    shown = ", ".join(part for part in machine if part)
    return {
        "package": facts["nowag_exp"],
        "commit": facts["commit"] + dirty,
        "python": facts["python"],
        "libraries": libraries or "-",
        "machine": shown,
    }


def _listed(counts: dict[str, int]) -> str:
    most = sorted(counts, key=lambda text: -counts[text])
    parts = [f"{text} ({counts[text]})" for text in most[:MOST_VALUES]]
    return ", ".join(parts) + (f" and {len(most) - MOST_VALUES} others" if len(most) > MOST_VALUES else "")
