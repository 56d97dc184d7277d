"""One HTML file of all sections, with style and script in it."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

import nowag_exp
from nowag_exp.published import Published
from nowag_exp.records.record import RunRecord
from nowag_exp.records.wide import Section, sections
from nowag_exp.report.palette import styles, variables
from nowag_exp.report.parts import Album, Part, all_parts, listed, minute
from nowag_exp.report.provenance import warnings


@dataclass(frozen=True)
class Report:
    """What is written: the page, and the figures by their path below the report's folder."""

    html: str
    figures: dict[str, str | bytes]


def make(records: list[RunRecord], results: Path, published: list[Published]) -> Report:
    """The report of some records; same records, same bytes.

    Args:
        records: at least one.
        results: folder of the records, with their items.
        published: values to hold them against.
    """
    of_models, album = sections(records, results), Album()
    parts = all_parts(of_models, styles([record.labels.method for record in records]), published, album)
    return Report(_rendered(parts, records, of_models), album.files)


def _rendered(parts: list[Part], records: list[RunRecord], of_models: list[Section]) -> str:
    folder = files("nowag_exp.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (folder / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("index.html.j2").render(
        parts=parts,
        facts=dict(_facts(records, of_models)),
        warnings=[warning for section in of_models for warning in warnings(section)],
        last=max(record.costs.finished_at for record in records),
        made=minute(max(record.costs.finished_at for record in records)),
        version=nowag_exp.__version__,
        variables=variables(),
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'",
    )


def _facts(found: list[RunRecord], of_models: list[Section]) -> Iterator[tuple[str, str]]:
    """What the report covers."""
    rows = sum(len(section.rows) for section in of_models)
    yield "records", f"{len(found)}, in {rows} rows (seeds share one)"
    yield "models", listed([section.model for section in of_models])
    yield "methods", listed(sorted({record.labels.method for record in found}), 12)
    measured = [metric.protocol for record in found for metric in record.metrics]
    yield "measured on", listed(sorted({name if "@" in name else name.partition("/")[0] for name in measured}), 12)
    first, last = (minute(end(record.costs.finished_at for record in found)) for end in (min, max))
    of_one_day = first[:11] == last[:11]
    ends = f"{first.removesuffix(' UTC')} to {last[11:] if of_one_day else last}"
    yield "finished", last if first == last else ends
