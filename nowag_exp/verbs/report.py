"""``nowag-exp report``: one HTML page of all records, and its figures for papers."""

import argparse
from pathlib import Path

from nowag_exp.errors import RequestError
from nowag_exp.output import write

HELP = "one HTML page of all records, with every figure as PDF and SVG"
EPILOG = "example: nowag-exp report --out paper   (then open paper/index.html; figures are in paper/figures)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: the results folder's report/")
    parser.add_argument("overrides", nargs="*", default=[], metavar="paths.results=DIR", help="default: results")


def main(options: argparse.Namespace) -> int:
    """Make it from records alone."""
    from nowag_exp.compose import results_folder
    from nowag_exp.published import load_published
    from nowag_exp.records.record import load_records
    from nowag_exp.report.page import make

    results = results_folder(options.overrides)
    records = load_records(results)
    if not records:
        raise RequestError(
            f"{results}: holds no records, so there is nothing to report; run an experiment (nowag-exp sweep demo), or "
            "set paths.results=DIR"
        )
    out = options.out or results / "report"
    report = make(records, results, load_published())
    for name, content in report.figures.items():
        write(out / name, content)
    write(out / "index.html", report.html)
    print(f"wrote {out / 'index.html'} and {len(report.figures) // 2} figures in {out / 'figures'} (PDF and SVG)")
    return 0
