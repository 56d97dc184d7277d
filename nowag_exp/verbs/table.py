"""``nowag-exp table``: the table of all records."""

import argparse
from pathlib import Path

from nowag_exp.errors import RequestError
from nowag_exp.output import extension, write

HELP = "the table of all records"
EPILOG = "example: nowag-exp table --format tex --out paper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.add_argument("--format", choices=("text", "csv", "md", "tex"), default="text", help="default: text")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write DIR/table.EXT instead of printing")
    parser.add_argument(
        "--allow-mixed", action="store_true", help="values measured on different tokens share a column, and are marked"
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="paths.results=DIR", help="default: results")


def main(options: argparse.Namespace) -> int:
    """Make it from records alone."""
    from nowag_exp.compose import results_folder
    from nowag_exp.records.record import load_records
    from nowag_exp.records.wide import render

    results = results_folder(options.overrides)
    records = load_records(results)
    if options.out is not None and not records:
        raise RequestError(f"{results}: holds no records, so nothing was written; set paths.results=DIR")
    text = render(records, options.format, results, options.allow_mixed)
    if options.out is None:
        print(text, end="")
    else:
        write(path := options.out / f"table.{extension(options.format)}", text)
        print(f"wrote {path}")
    return 0
